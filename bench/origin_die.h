/*
 * How a program of the test bench ends when the system gives it nothing more.
 */
#ifndef ORIGIN_DIE_H
#define ORIGIN_DIE_H

#include <stdio.h>
#include <stdlib.h>

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline void *checked(void *memory)
{
    if (!memory)
        die("malloc");
    return memory;
}

#endif
