static inline int32_t pj_sigmoid(const pj_recurrent_t *r, int32_t x) {
    const int32_t y = pj_between(r->sigmoid, x);
    return x < 0 ? 32767 - y : y;
}
