/* Sum of two grids. */
typedef struct {
    int32_t left_multiplier, left_shift, right_multiplier, right_shift, multiplier, shift;
    int8_t left_zero, right_zero, zero, low, high;
} pj_add_t;

static void pj_add(const pj_add_t *k, const int8_t *a, const int8_t *b, int8_t *y, int32_t n) {
    for (; n > 0; --n) {
        const int32_t p = (*a++ - k->left_zero) * (1 << 20), q = (*b++ - k->right_zero) * (1 << 20);
        const int32_t sum = pj_scale(p, k->left_multiplier, k->left_shift) +
                            pj_scale(q, k->right_multiplier, k->right_shift);
        *y++ = pj_clamp(pj_scale(sum, k->multiplier, k->shift) + k->zero, k->low, k->high);
    }
}
