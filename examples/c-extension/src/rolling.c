/* The hot path: a few instructions for each byte of each document. */
#include "rolling.h"

#define FACTOR 1099511628211u

size_t roll(const unsigned char *text, size_t size, size_t width, size_t step, uint64_t *out)
{
    uint64_t hash = 0, leaving = 1;
    size_t found = 0;

    for (size_t i = 0; i < width; i++)
        leaving *= FACTOR;
    for (size_t i = 0; i < size; i++) {
        hash = hash * FACTOR + text[i];
        if (i >= width)
            hash -= leaving * text[i - width];
        if (i + 1 >= width && ((i + 1 - width) & (step - 1)) == 0)
            out[found++] = hash;
    }
    return found;
}
