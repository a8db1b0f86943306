"""From an address in the code to a name: ``net.conn.conn_send+0x1c (engine….so+0x8f2)``. The watchdog's thread only.

Read from ``/proc/self/maps`` and from the symbol table of the file that is mapped there (ELF: elf(5)). libc's ``dladdr``
knows no static functions, and waits for a lock that a thread which stands still may hold. Names that Cython made are
shown as they stand in the source. Nothing is allocated.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memmove, strlen, strncmp
from posix.stat cimport fstat, struct_stat
from posix.types cimport off_t

from fastmesh._native.core.report cimport report_bytes, report_hex, report_t, report_text
from fastmesh._native.sys.os cimport O_CLOEXEC, O_RDONLY, close, open_, pread, read

cdef extern from "<link.h>" nogil:
    ctypedef struct elf_header_t "ElfW(Ehdr)":
        uint8_t e_ident[16]
        uint64_t e_phoff
        uint64_t e_shoff
        uint32_t e_phnum
        uint32_t e_shnum
    ctypedef struct elf_segment_t "ElfW(Phdr)":
        uint32_t p_type
        uint64_t p_offset
        uint64_t p_vaddr
        uint64_t p_filesz
    ctypedef struct elf_section_t "ElfW(Shdr)":
        uint32_t sh_type
        uint32_t sh_link
        uint64_t sh_offset
        uint64_t sh_size
    ctypedef struct elf_symbol_t "ElfW(Sym)":
        uint32_t st_name
        uint8_t st_info
        uint64_t st_value
        uint64_t st_size
    enum: PT_LOAD, SHT_SYMTAB, SHT_DYNSYM, STT_FUNC
    int elf_symbol_type "ELF32_ST_TYPE"(uint8_t info)
    const char *ELFMAG
    enum: SELFMAG

cdef enum:
    PATH_BYTES = 512
    SYMBOL_BYTES = 256
    SYMBOLS_A_READ = 128

ctypedef struct mapping_t:
    # A line of /proc/self/maps
    uint64_t begin
    uint64_t end
    uint64_t offset
    uint64_t inode
    char path[PATH_BYTES]  # empty: no file

ctypedef struct symbol_t:
    uint64_t linked  # the address as the linker knows it
    uint64_t into  # how far the address is behind the symbol
    char name[SYMBOL_BYTES]  # empty: none was found


# ---------------------------------------------------------------- what is mapped where

cdef inline const char *take_number(const char *text, uint32_t base, uint64_t *value) noexcept nogil:
    """Lower-case digits; the place behind them."""
    cdef uint32_t digit
    value[0] = 0
    while True:
        if c'0' <= text[0] <= c'9':
            digit = <uint32_t> (text[0] - c'0')
        elif base == 16 and c'a' <= text[0] <= c'f':
            digit = <uint32_t> (text[0] - c'a' + 10)
        else:
            return text
        value[0] = value[0] * base + digit
        text += 1


cdef inline void mapping_read(mapping_t *m, const char *line) noexcept nogil:
    """``begin-end perms offset dev inode path`` (proc_pid_maps(5)), ended by NUL."""
    cdef size_t length
    cdef uint32_t field
    line = take_number(line, 16, &m.begin)
    line = take_number(line + (line[0] != 0), 16, &m.end)
    m.path[0] = 0
    for field in range(4):
        while line[0] == c' ':
            line += 1
        if field == 1:
            take_number(line, 16, &m.offset)
        elif field == 3:
            take_number(line, 10, &m.inode)
        while line[0] != 0 and line[0] != c' ':
            line += 1
    while line[0] == c' ':
        line += 1
    length = strlen(line)
    if length < PATH_BYTES:
        memcpy(m.path, line, length + 1)


cdef inline bint mapping_find(mapping_t *m, uint64_t address) noexcept nogil:
    """The mapping that the address lies in."""
    cdef char text[4096]
    cdef const char *end
    cdef size_t held = 0, length
    cdef ssize_t n
    cdef int fd = open_(b"/proc/self/maps", O_RDONLY | O_CLOEXEC)
    cdef bint found = False
    if fd < 0:
        return False
    while not found:
        n = read(fd, text + held, sizeof(text) - 1 - held)
        if n <= 0:
            break
        held += <size_t> n
        while not found:
            end = <const char *> memchr(text, c'\n', held)
            if end == NULL:
                break
            length = <size_t> (end - text)
            text[length] = 0
            mapping_read(m, text)
            found = m.begin <= address < m.end
            held -= length + 1
            memmove(text, text + length + 1, held)
        if held == sizeof(text) - 1:
            held = 0  # longer than any line that names a file of ours
    close(fd)
    return found


# ---------------------------------------------------------------- symbols

cdef inline bint read_at(int fd, void *into, size_t size, uint64_t offset) noexcept nogil:
    return pread(fd, into, size, <off_t> offset) == <ssize_t> size


cdef inline bint elf_address(int fd, const elf_header_t *header, uint64_t offset, uint64_t *address) noexcept nogil:
    """Where the linker put what stands at an offset of the file."""
    cdef elf_segment_t segment
    cdef uint32_t i
    for i in range(header.e_phnum):
        if not read_at(fd, &segment, sizeof(segment), header.e_phoff + i * sizeof(segment)):
            return False
        if segment.p_type == PT_LOAD and segment.p_offset <= offset < segment.p_offset + segment.p_filesz:
            address[0] = offset - segment.p_offset + segment.p_vaddr
            return True
    return False


cdef inline void elf_search(int fd, const elf_section_t *table, const elf_section_t *names, uint64_t address,
                            symbol_t *found) noexcept nogil:
    """The function that the address is in."""
    cdef elf_symbol_t symbols[SYMBOLS_A_READ]
    cdef uint64_t count = table.sh_size // sizeof(elf_symbol_t)
    cdef uint64_t at = 0, begin = 0
    cdef uint32_t i, batch, name = 0
    cdef ssize_t n
    while at < count:
        batch = <uint32_t> (count - at) if count - at < SYMBOLS_A_READ else <uint32_t> SYMBOLS_A_READ
        if not read_at(fd, symbols, batch * sizeof(elf_symbol_t), table.sh_offset + at * sizeof(elf_symbol_t)):
            return
        for i in range(batch):
            if elf_symbol_type(symbols[i].st_info) == STT_FUNC \
                    and symbols[i].st_value <= address < symbols[i].st_value + symbols[i].st_size:
                begin = symbols[i].st_value
                name = symbols[i].st_name
        at += batch
    if name == 0:
        return
    n = pread(fd, found.name, SYMBOL_BYTES - 1, <off_t> (names.sh_offset + name))
    found.name[n if n > 0 else 0] = 0
    found.into = address - begin


cdef inline void symbol_find(const mapping_t *m, uint64_t address, symbol_t *found) noexcept nogil:
    """``found.name`` stays empty when the file is another one by now, or has no name for the address."""
    cdef elf_header_t header
    cdef elf_section_t table, names
    cdef struct_stat status
    cdef uint32_t i, kind, _pass
    cdef int fd
    found.name[0] = 0
    found.linked = address - m.begin + m.offset
    if m.path[0] != c'/':
        return
    fd = open_(m.path, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return
    if fstat(fd, &status) == 0 and <uint64_t> status.st_ino == m.inode \
            and read_at(fd, &header, sizeof(header), 0) and memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 \
            and elf_address(fd, &header, address - m.begin + m.offset, &found.linked):
        for _pass in range(2):  # all symbols; of a stripped file, those that it exports
            kind = SHT_DYNSYM if _pass else SHT_SYMTAB
            for i in range(header.e_shnum):
                if found.name[0] == 0 and read_at(fd, &table, sizeof(table), header.e_shoff + i * sizeof(table)) \
                        and table.sh_type == kind and table.sh_link < header.e_shnum \
                        and read_at(fd, &names, sizeof(names), header.e_shoff + table.sh_link * sizeof(names)):
                    elf_search(fd, &table, &names, found.linked, found)
    close(fd)


# ---------------------------------------------------------------- as text

cdef inline void report_symbol(report_t *r, const char *name) noexcept nogil:
    """``__pyx_f_8fastmesh_7_native_3net_4conn_conn_send.isra.0`` is ``net.conn.conn_send``: each part of a module's name
    has its length in front. The compiler's suffixes are left out."""
    cdef const char *at = name
    cdef const char *behind
    cdef uint64_t length
    cdef uint32_t part = 0
    if strncmp(name, b"__pyx_", 6) == 0:
        at += 6
        while at[0] != 0 and at[0] != c'_':
            at += 1
        at += at[0] == c'_'
        while True:
            behind = take_number(at, 10, &length)
            if behind == at or length > strlen(behind) or behind[length] != c'_':
                break
            if part >= 2:  # without fastmesh._native
                report_bytes(r, behind, length)
                report_text(r, b".")
            part += 1
            at = behind + length + 1
        if part < 2:
            at = name
        elif behind != at:
            at = behind  # a method has a number in front
    length = 0
    while at[length] != 0 and at[length] != c'.':
        length += 1
    report_bytes(r, at, length)


cdef inline void report_address(report_t *r, uint64_t address) noexcept nogil:
    """Function, file, and the address in the file, which ``addr2line -ife`` takes."""
    cdef mapping_t mapping
    cdef symbol_t symbol
    cdef const char *file
    cdef uint64_t i
    if not mapping_find(&mapping, address) or mapping.path[0] == 0:
        report_hex(r, address)
        return
    symbol_find(&mapping, address, &symbol)
    if symbol.name[0] != 0:
        report_symbol(r, symbol.name)
        report_text(r, b"+")
        report_hex(r, symbol.into)
        report_text(r, b" ")
    file = mapping.path
    for i in range(strlen(mapping.path)):
        if mapping.path[i] == c'/':
            file = &mapping.path[i + 1]
    report_text(r, b"(")
    report_text(r, file)
    report_text(r, b"+")
    report_hex(r, symbol.linked)
    report_text(r, b")")
