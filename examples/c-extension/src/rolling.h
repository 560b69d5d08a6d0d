#include <stddef.h>
#include <stdint.h>

/* Hash the passages of `width` bytes that begin at each multiple of `step`, a power of two.
 * `out` has room for `size / step + 1` hashes; returns how many there are. */
size_t roll(const unsigned char *text, size_t size, size_t width, size_t step, uint64_t *out);
