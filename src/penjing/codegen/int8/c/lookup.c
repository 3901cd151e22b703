/* A function of one value by its table. */
static void pj_lookup(const int8_t *table, const int8_t *x, int8_t *y, int32_t n) {
    for (int32_t i = 0; i < n; ++i) {
        y[i] = table[x[i] + 128];
    }
}
