/* Sum of two grids of 16 bits. */
typedef struct {
    int32_t left_multiplier, left_shift, right_multiplier, right_shift, multiplier, shift;
    int16_t low, high;
} pj_add_16_t;

static void pj_add_16(const pj_add_16_t *k, const int16_t *a, const int16_t *b, int16_t *y,
                      int32_t n) {
    for (; n > 0; --n) {
        const int32_t p = *a++ * (1 << 15), q = *b++ * (1 << 15);
        const int32_t sum = pj_to_32(p, k->left_multiplier, k->left_shift) +
                            pj_to_32(q, k->right_multiplier, k->right_shift);
        *y++ = pj_to_16(sum, k->multiplier, k->shift, k->low, k->high);
    }
}
