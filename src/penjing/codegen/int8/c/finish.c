/* Sums of a convolution brought to the grid of its output. */
static inline int8_t pj_finish(const pj_conv_t *k, int32_t output, int32_t sum) {
    const int32_t at = output & k->which;
    sum = pj_scale(sum, k->multiplier[at], k->shift[at]);
    return pj_clamp(sum + k->zero, k->low, k->high);
}
