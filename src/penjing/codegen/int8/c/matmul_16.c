/* Products of matrices (rows, inner) and (inner, columns) of 16-bit values. */
static void pj_matmul_16(const int16_t *a, const int16_t *b, int16_t *y, int32_t many, int32_t rows,
                         int32_t inner, int32_t columns, int32_t multiplier, int32_t shift,
                         int32_t low, int32_t high) {
    for (; many > 0; --many, b += inner * columns) {
        for (int32_t i = 0; i < rows; ++i, a += inner, y += columns) {
            for (int32_t j = 0; j < columns; ++j) {
                int64_t sum = 0;
                for (int32_t k = 0; k < inner; ++k) {
                    sum += (int32_t)a[k] * b[k * columns + j];
                }
                y[j] = pj_scale_16(sum, multiplier, shift, low, high);
            }
        }
    }
}
