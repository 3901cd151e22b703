/* Some neighbouring pixels of one row of a convolution, first to first + count. */
typedef void pj_tile_t(const pj_conv_t *k, const int8_t *x, int32_t row, int32_t first,
                       int32_t count, int8_t *y, int8_t *scratch);
