/* Bytes of an image to integers, by a table of 256 for each channel. */
static void pj_image(const int8_t *table, const int8_t *x, int8_t *y, int32_t pixels,
                     int32_t channels) {
    for (int32_t i = 0; i < pixels; ++i) {
        for (int32_t c = 0; c < channels; ++c) {
            const uint8_t byte = (uint8_t)*x++;
            *y++ = table[c * 256 + byte];
        }
    }
}
