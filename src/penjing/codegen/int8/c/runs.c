/* `n` runs of `run` values copied, `apart` values from one result run to the next. */
static void pj_runs(const int8_t *x, int8_t *y, int32_t n, int32_t run, int32_t apart) {
    for (; n > 0; --n, y += apart, x += run) {
        memmove(y, x, (size_t)run);
    }
}
