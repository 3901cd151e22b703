/* A function of 16 bits, on the line between two of its 513 points. */
static inline int16_t pj_line_16(const int16_t *points, int32_t x) {
    const int16_t *const p = points + 256 + (x >> 7);
    return (int16_t)(p[0] + (((p[1] - p[0]) * (x & 127) + 64) >> 7));
}
