"""The system calls and constants of Linux that the native half uses. No logic."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.types cimport off_t

cdef extern from "<errno.h>" nogil:
    int errno
    enum: EAGAIN, EINTR, EINPROGRESS, EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNREFUSED, ECONNRESET, EPIPE, ETIMEDOUT
    enum: ECONNABORTED, EPROTO, ENOTCONN, EADDRNOTAVAIL, EINVAL, ENOSYS, ENOENT, EACCES, EPERM

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    # packed on x86-64: only ever used as the compiler declares it
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum: EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR, EPOLLEXCLUSIVE
    enum: EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    uint32_t EPOLLET  # bit 31: not an int
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int max_events, int timeout_ms)

cdef extern from "<sys/eventfd.h>" nogil:
    enum: EFD_NONBLOCK, EFD_CLOEXEC
    int eventfd(unsigned int initial, int flags)
    int eventfd_write(int fd, uint64_t value)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    ctypedef uint16_t sa_family_t
    cdef struct sockaddr:
        sa_family_t sa_family
    cdef struct sockaddr_storage:
        sa_family_t ss_family
    cdef struct linger:
        int l_onoff
        int l_linger
    enum: AF_UNSPEC, AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC
    enum: SOL_SOCKET, SO_ERROR, SO_LINGER, SO_REUSEPORT, SHUT_RD, SHUT_WR, SHUT_RDWR, MSG_NOSIGNAL, MSG_DONTWAIT, MSG_MORE, MSG_PEEK
    int socket(int domain, int kind, int protocol)
    int connect(int fd, const sockaddr *address, socklen_t length)
    int accept4(int fd, sockaddr *address, socklen_t *length, int flags)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
    int getsockname(int fd, sockaddr *address, socklen_t *length)
    int shutdown(int fd, int how)
    ssize_t recv(int fd, void *buffer, size_t length, int flags)
    ssize_t send(int fd, const void *buffer, size_t length, int flags)

cdef enum:  # linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h; neither can stand beside netinet/in.h
    SO_ORIGINAL_DST = 80
    IP6T_SO_ORIGINAL_DST = 80

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    enum: IPPROTO_TCP, SOL_IP, SOL_IPV6
    uint16_t ntohs(uint16_t value)
    uint16_t htons(uint16_t value)

cdef extern from "<netinet/tcp.h>" nogil:
    enum: TCP_NODELAY, TCP_USER_TIMEOUT

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<linux/sockios.h>" nogil:
    enum: SIOCOUTQ

cdef extern from "<fcntl.h>" nogil:
    enum: O_RDONLY, O_NONBLOCK, O_CLOEXEC, SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE, F_SETPIPE_SZ, F_GETPIPE_SZ
    ssize_t splice(int from_fd, void *from_offset, int to_fd, void *to_offset, size_t length, unsigned int flags)
    int fcntl(int fd, int command, ...)
    int open_ "open"(const char *path, int flags, ...)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t read(int fd, void *buffer, size_t length)
    ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
    ssize_t write(int fd, const void *buffer, size_t length)
    ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
    int ftruncate(int fd, off_t length)
    off_t lseek(int fd, off_t offset, int whence)
    enum: SEEK_SET
    int getpeername(int fd, sockaddr *address, socklen_t *length)
    int pipe2(int *fds, int flags)

cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec
    enum: CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_REALTIME
    int clock_gettime(clockid_t clock, timespec *out)
