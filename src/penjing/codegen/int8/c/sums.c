/* Sums of one output at one pixel (then only `a` counts) or at four neighbouring ones. */
#define PJ_ALWAYS static inline __attribute__((always_inline))
typedef struct {
    int32_t a, b, c, d;
} pj_four_t;

PJ_ALWAYS pj_four_t pj_four(int32_t x) {
    const pj_four_t s = {x, x, x, x};
    return s;
}

PJ_ALWAYS void pj_store_four(const pj_conv_t *k, int32_t o, pj_four_t s, int32_t count,
                             int8_t *y) {
    const int32_t sums[4] = {s.a, s.b, s.c, s.d};
    for (int32_t i = 0; i < count; ++i) {
        y[i * k->outputs + o] = pj_finish(k, o, sums[i]);
    }
}
