/* Convolution whose result is added to another tensor, pixel by pixel, without being stored. */
static void pj_conv_add(const pj_conv_t *k, pj_tile_t *tile, int32_t size, const pj_add_t *add,
                        int swapped, const int8_t *x, const int8_t *residual, int8_t *y,
                        int8_t *scratch, int8_t *made) {
    for (int32_t row = 0; row < k->rows; ++row) {
        for (int32_t at = 0; at < k->columns; at += size) {
            const int32_t left = k->columns - at, count = left < size ? left : size;
            const int32_t n = count * k->outputs;
            tile(k, x, row, at, count, made, scratch);
            pj_add(add, swapped ? residual : made, swapped ? made : residual, y, n);
            residual += n;
            y += n;
        }
    }
}
