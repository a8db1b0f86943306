"""splice(2): bytes from one socket to another through a pipe, without a copy to our memory.

Pipes come from the worker's capped pool and are held only while bytes are in them. None free: the caller copies.
Owner worker only.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from fastmesh._native.base.limits cimport PIPE_BYTES, PIPES_MAX, SPLICE_BYTES
from fastmesh._native.net.conn cimport IO_AGAIN, IO_FAILED, descriptors_count, pipe_give_back
from fastmesh._native.net.worker_t cimport (
    F_EOF,
    F_ERROR,
    F_READABLE,
    PRESSURE_NONE,
    RESOURCE_DESCRIPTORS,
    conn_t,
    pipe_t,
    worker_t,
)
from fastmesh._native.sys.atomics cimport fm_bump_u64
from fastmesh._native.sys.os cimport (
    EAGAIN,
    EINTR,
    F_SETPIPE_SZ,
    O_CLOEXEC,
    O_NONBLOCK,
    SPLICE_F_MOVE,
    SPLICE_F_NONBLOCK,
    close,
    errno,
    fcntl,
    pipe2,
    splice,
)


cdef inline void pipes_init(worker_t *w) noexcept nogil:
    cdef uint32_t i
    for i in range(PIPES_MAX):
        w.pipes[i].read_fd = -1
        w.pipes[i].write_fd = -1
        w.pipes[i].held = 0
        w.pipe_free[i] = PIPES_MAX - 1 - i
    w.pipe_free_count = PIPES_MAX


cdef inline void pipe_close(worker_t *w, pipe_t *pipe) noexcept nogil:
    if pipe.read_fd >= 0:
        close(pipe.read_fd)
        close(pipe.write_fd)
        pipe.read_fd = -1
        fm_bump_u64(&w.pipes_live, <uint64_t> -1)
        descriptors_count(w, <uint64_t> -2)


cdef inline void pipes_close(worker_t *w) noexcept nogil:
    cdef uint32_t i
    for i in range(PIPES_MAX):
        pipe_close(w, &w.pipes[i])


cdef inline void pipes_shed(worker_t *w) noexcept nogil:
    """Closes the pipes that nothing is in: descriptors are short."""
    cdef uint32_t i
    for i in range(w.pipe_free_count):
        pipe_close(w, &w.pipes[w.pipe_free[i]])


cdef inline pipe_t *pipe_take(worker_t *w) noexcept nogil:
    """An empty pipe, or NULL."""
    cdef int fds[2]
    cdef pipe_t *pipe
    if w.pipe_free_count == 0:
        return NULL
    pipe = &w.pipes[w.pipe_free[w.pipe_free_count - 1]]
    if pipe.read_fd < 0:
        if w.strain[RESOURCE_DESCRIPTORS] != PRESSURE_NONE or pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0:
            return NULL
        # Refused beyond an unprivileged user's share; the default of 64 KiB serves then
        fcntl(fds[1], F_SETPIPE_SZ, <int> PIPE_BYTES)
        pipe.read_fd = fds[0]
        pipe.write_fd = fds[1]
        fm_bump_u64(&w.pipes_live, 1)
        descriptors_count(w, 2)
    w.pipe_free_count -= 1
    return pipe


cdef inline int64_t splice_fill(conn_t *src, pipe_t *pipe, uint64_t most) noexcept nogil:
    """Socket to pipe, like ``conn_recv``. A short splice says nothing: F_READABLE stays until EAGAIN."""
    cdef ssize_t n
    while True:
        n = splice(src.fd, NULL, pipe.write_fd, NULL, most if most < SPLICE_BYTES else SPLICE_BYTES,
                   SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        if n > 0:
            pipe.held += <uint32_t> n
            return n
        if n == 0:
            src.flags = (src.flags | F_EOF) & <unsigned short> ~F_READABLE
            return 0
        if errno == EAGAIN:
            src.flags &= <unsigned short> ~F_READABLE
            return IO_AGAIN
        if errno != EINTR:
            src.flags = (src.flags | F_ERROR) & <unsigned short> ~F_READABLE
            return IO_FAILED


cdef inline int32_t splice_flush(worker_t *w, conn_t *dst) noexcept nogil:
    """Pipe to socket: 1 all has gone and the pipe is given back; 0 some waits; IO_FAILED."""
    cdef pipe_t *pipe = dst.pipe
    cdef ssize_t n
    while pipe.held:
        n = splice(pipe.read_fd, NULL, dst.fd, NULL, pipe.held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        if n > 0:
            pipe.held -= <uint32_t> n
        elif n < 0 and errno == EINTR:
            continue
        elif n < 0 and errno == EAGAIN:
            return 0
        else:
            return IO_FAILED
    dst.pipe = NULL
    pipe_give_back(w, pipe)
    return 1
