/* Convolution whose result is added to another tensor, row by row. */
static void pj_wide_add(const pj_wide_t *k, const pj_add_t *add, int swapped, const int8_t *x,
                        const int8_t *residual, int8_t *y, int8_t *framed, int8_t *made) {
    const int32_t n = k->columns * k->outputs;
    pj_frame(k, x, framed);
    for (int32_t row = 0; row < k->rows; ++row, y += n, residual += n) {
        pj_wide_row(k, framed + row * k->down, made);
        pj_add_lanes(add, swapped ? residual : made, swapped ? made : residual, y, n);
    }
}
