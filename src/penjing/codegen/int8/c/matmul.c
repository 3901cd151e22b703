/* Products of matrices (rows, inner) and (inner, columns), eight columns at a time. */
static void pj_matmul(const int8_t *a, const int8_t *b, int8_t *y, int32_t many, int32_t rows,
                      int32_t inner, int32_t columns, const int32_t *scale, const int8_t *grids) {
    for (; many > 0; --many, b += inner * columns) {
        for (int32_t i = 0; i < rows; ++i, a += inner, y += columns) {
            for (int32_t j = 0; j < columns; j += 8) {
                const int32_t wide = columns - j < 8 ? columns - j : 8;
                int32_t sums[8] = {0};
                for (int32_t k = 0; k < inner; ++k) {
                    const int32_t v = a[k] - grids[0];
                    const int8_t *const row = b + k * columns + j;
                    for (int32_t c = 0; c < wide; ++c) {
                        sums[c] += v * (row[c] - grids[1]);
                    }
                }
                for (int32_t c = 0; c < wide; ++c) {
                    y[j + c] = pj_clamp(pj_scale(sums[c], scale[0], scale[1]) + grids[2], grids[3],
                                        grids[4]);
                }
            }
        }
    }
}
