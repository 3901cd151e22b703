/* Rows of a table; `x` holds their numbers, 32 bits each. */
static void pj_embedding(const int8_t *table, const int8_t *x, int8_t *y, int32_t n, int32_t rows,
                         int32_t width) {
    (void)rows;
    for (; n > 0; --n, x += 4, y += width) {
        int32_t row;
        memcpy(&row, x, 4);
        assert(row >= 0 && row < rows);
        memcpy(y, table + row * width, (size_t)width);
    }
}
