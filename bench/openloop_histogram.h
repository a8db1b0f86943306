/*
 * The histograms of openloop.c: values in ns, counted in HdrHistogram's layout, written as lines `NAME VALUE COUNT`.
 */
#pragma once
#include <stdio.h>

#include "openloop_answer.h"

/* HdrHistogram's layout for 3 significant digits: 2048 slots of one value, then 1024 for each power of two. */
enum { HALF = 1024, HALF_SHIFT = 10, BUCKETS = 26, SLOTS = (BUCKETS + 1) * HALF };  /* up to 68 s */

struct histogram { u64 max, counts[SLOTS]; };

static void record_value(struct histogram *histogram, u64 value)
{
    int bucket = 63 - HALF_SHIFT - __builtin_clzll(value | (2 * HALF - 1));
    histogram->counts[bucket < BUCKETS ? bucket * HALF + (int)(value >> bucket) : SLOTS - 1]++;
    if (value > histogram->max)
        histogram->max = value;
}

static void write_histogram(FILE *file, const char *name, const struct histogram *histogram)
{
    for (int slot = 0; slot < SLOTS; slot++) {
        int bucket = slot < 2 * HALF ? 0 : slot / HALF - 1;
        if (histogram->counts[slot])
            fprintf(file, "%s %llu %llu\n", name, (u64)(slot - bucket * HALF) << bucket, histogram->counts[slot]);
    }
}
