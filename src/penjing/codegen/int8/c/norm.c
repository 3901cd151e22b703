/* Norms in fixed point: what brings deviations to a variance of 1, and by how many bits the product is too long. */
typedef struct {
    int64_t share;
    int32_t down;
} pj_normal_t;

static pj_normal_t pj_normal(int64_t spread) {
    int32_t up = 0;
    while (up < 30 && (uint64_t)spread << (2 * up) < (uint64_t)1 << 60) {
        ++up;
    }
    const uint32_t root = pj_root((uint64_t)spread << (2 * up));
    const uint64_t inverse = ((uint64_t)1 << 61) / (root > 0 ? root : 1);
    const pj_normal_t found = {inverse > INT32_MAX ? INT32_MAX : (int64_t)inverse, 41 - up};
    return found;
}

static inline int8_t pj_normed(pj_normal_t by, int64_t deviation, int32_t gain, int32_t offset,
                               int32_t shift, int32_t zero) {
    const int64_t normal = (deviation * by.share + ((int64_t)1 << (by.down - 1))) >> by.down;
    const int64_t sum = normal * gain + offset * ((int64_t)1 << (shift + 4));
    const int64_t whole = (sum + ((int64_t)1 << (shift + 19))) >> (shift + 20);
    const int32_t result = (int32_t)(whole < -512 ? -512 : whole > 512 ? 512 : whole);
    return pj_clamp(result + zero, -128, 127);
}
