/* Bytes in another order, by nested loops: (count, stride) each, the innermost first. */
static void pj_move(const int8_t *x, int8_t *y, const int32_t *loops, int32_t rank, int32_t runs) {
    int32_t at[6] = {0}, from = 0;
    const int32_t count = loops[0], stride = loops[1];
    for (; runs > 0; --runs, y += count) {
        if (stride == 1) {
            memcpy(y, x + from, (size_t)count);
        } else {
            for (int32_t i = 0; i < count; ++i) {
                y[i] = x[from + i * stride];
            }
        }
        for (int32_t d = 1; d < rank; ++d) {
            const int32_t *const loop = loops + 2 * d;
            from += loop[1];
            if (++at[d] < loop[0]) {
                break;
            }
            from -= loop[0] * loop[1];
            at[d] = 0;
        }
    }
}
