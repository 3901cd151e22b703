/* A whole convolution, tile by tile. */
static void pj_tiled(const pj_conv_t *k, pj_tile_t *tile, int32_t size, const int8_t *x, int8_t *y,
                     int8_t *scratch) {
    for (int32_t row = 0; row < k->rows; ++row) {
        for (int32_t at = 0; at < k->columns; at += size) {
            const int32_t left = k->columns - at, count = left < size ? left : size;
            tile(k, x, row, at, count, y, scratch);
            y += count * k->outputs;
        }
    }
}
