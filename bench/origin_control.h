/*
 * The origin's control socket: one datagram is one command, and one goes back to where it came from.
 */
#ifndef ORIGIN_CONTROL_H
#define ORIGIN_CONTROL_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "origin_die.h"

struct command {
    char text[512];
    struct sockaddr_un from;
    socklen_t from_length;
};

/* The socket; what an origin that was killed left at the path is replaced. */
static int open_control(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat before;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "the control socket's path is longer than %zu bytes: %s\n", sizeof address.sun_path - 1, path);
        exit(1);
    }
    strcpy(address.sun_path, path);
    if (lstat(path, &before) == 0 && S_ISSOCK(before.st_mode))
        unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("control socket");
    return fd;
}

static bool receive_command(int fd, struct command *command)
{
    ssize_t count;
    command->from_length = sizeof command->from;
    count = recvfrom(fd, command->text, sizeof command->text - 1, 0,
        (struct sockaddr *)&command->from, &command->from_length);
    if (count >= 0)
        command->text[count] = '\0';
    return count >= 0;
}

/* Who does not wait for it does not get it. */
static void answer_command(int fd, const struct command *command, const char *kind, const char *text)
{
    char line[320];
    int length = snprintf(line, sizeof line, "%s%s\n", kind, text);
    sendto(fd, line, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL,
        (const struct sockaddr *)&command->from, command->from_length);
}

#endif
