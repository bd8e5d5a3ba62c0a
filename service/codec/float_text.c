/* JSON's text of float32 tensors, both ways, without the interpreter: Python calls this through ctypes, which lets go
 * of the interpreter's lock, so other threads go on meanwhile. float_text.py is its only caller and says what is
 * guaranteed; nothing here allocates, and nothing is written past what the caller gives.
 *
 * Reading: a number is m · 10^e with m of at most 19 digits. It is made exactly (one operation on exact floats, or a
 * division of integers) and rounded once to float64; the rest is strtod's. Then float64 becomes float32, as any JSON
 * reader that knows float64 alone would have it.
 *
 * Writing: the shortest decimal that reads back as the same float32, and of these the closest: Raffaello Giulietti,
 * "The Schubfach way to render doubles" (2020), for 32 bits. Float64 is enough to tell it for all but a few in a
 * million, and those few are known.
 */
#include <float.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __SSE2__ /* all of x86-64 */
#include <emmintrin.h>
#endif

typedef unsigned __int128 uint128_t;

static const uint64_t TENS[] = {1u, 10u, 100u, 1000u, 10000u, 100000u, 1000000u, 10000000u, 100000000u, 1000000000u,
                                10000000000u, 100000000000u, 1000000000000u, 10000000000000u, 100000000000000u};

/* ------------------------------------------------------------------------------------------------ halves */

/* Half of a text, offered to the thread that helps. Who wants it does it alone if that has not begun it by the time that
 * the other half is done: so nobody waits for a thread to be woken, and without a helper all is as it would be. */
typedef struct {
    void (*work)(void *);
    void *of;
    bool is_offered;
    atomic_bool is_done;
} half_t;

enum { EAGER_NS = 100000 }; /* that the helper looks for a next half before it sleeps: to be woken takes as long */

static _Atomic(half_t *) offered; /* and not begun */
static atomic_bool sleeps;
static pthread_mutex_t bed = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;

static void offer(half_t *half) {
    half_t *none = 0;
    half->is_offered = atomic_compare_exchange_strong(&offered, &none, half); /* else somebody else's is there */
    if (half->is_offered && atomic_load(&sleeps)) {
        pthread_mutex_lock(&bed);
        atomic_store(&sleeps, false);
        pthread_cond_signal(&woken);
        pthread_mutex_unlock(&bed);
    }
}

static void wait_briefly(int turn) {
#ifdef __SSE2__
    _mm_pause();
#endif
    if (turn % 64 == 63) sched_yield();
}

/* Returns when the half is done or, if it is not wanted any more, when nobody is at work on it. */
static void finish(half_t *half, bool wanted) {
    half_t *expected = half;
    if (!half->is_offered || atomic_compare_exchange_strong(&offered, &expected, 0)) {
        if (wanted) half->work(half->of);
    } else {
        for (int turn = 0; !atomic_load(&half->is_done); turn++) wait_briefly(turn);
    }
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static half_t *await_half(void) {
    for (;;) {
        const int64_t until = now_ns() + EAGER_NS;
        for (int turn = 0; turn % 64 || now_ns() < until; turn = (turn + 1) % 64) {
            half_t *half = atomic_load_explicit(&offered, memory_order_relaxed);
            if (half && (half = atomic_exchange(&offered, 0))) return half;
            wait_briefly(turn);
        }
        pthread_mutex_lock(&bed);
        atomic_store(&sleeps, true);
        while (atomic_load(&sleeps) && !atomic_load(&offered)) pthread_cond_wait(&woken, &bed);
        atomic_store(&sleeps, false);
        pthread_mutex_unlock(&bed);
    }
}

/* See float_text.py: start_helper. Does not return. */
void help(void) {
    for (;;) {
        half_t *half = await_half();
        half->work(half->of);
        atomic_store(&half->is_done, true); /* from here on it may be gone */
    }
}

/* ------------------------------------------------------------------------------------------------ reading */

static const double POWERS_OF_TEN[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                       1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* 5^n for n <= 27, the powers below 2^63, so that 10^n = 5^n * 2^n. */
static const uint64_t POWERS_OF_FIVE[] = {
    1u, 5u, 25u, 125u, 625u, 3125u, 15625u, 78125u, 390625u, 1953125u, 9765625u, 48828125u, 244140625u, 1220703125u,
    6103515625u, 30517578125u, 152587890625u, 762939453125u, 3814697265625u, 19073486328125u, 95367431640625u,
    476837158203125u, 2384185791015625u, 11920928955078125u, 59604644775390625u, 298023223876953125u,
    1490116119384765625u, 7450580596923828125u};

/* Everything below gets the place of the next byte and the end of the text, and returns the place after what it took,
 * or 0 if that was not there. */

static const char *skip_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
    return at;
}

/* White space and this byte. */
static const char *take(const char *at, const char *end, char byte) {
    if (at < end && *at != byte) at = skip_space(at, end);
    return at < end && *at == byte ? at + 1 : 0;
}

static bool is_digit(char byte) { return (unsigned char)(byte - '0') < 10; }

/* The up to eight digits at the front of a word of text, as a number, and how many they are. Without a branch, since
 * that is hard to foresee: what is no digit is shifted out, and zeros come in before the digits. */
static uint64_t front_digits(const char *at, int *count) {
    uint64_t word;
    memcpy(&word, at, 8);
    word ^= 0x3030303030303030; /* a digit becomes its value */
    const uint64_t others = ((word + 0x7676767676767676) | word) & 0x8080808080808080;
    *count = (__builtin_ctzll(others | (uint64_t)1 << 63) >> 3) + !others;
    word = word << (32 - 4 * *count) << (32 - 4 * *count); /* by 64 in one step would not be C */
    word = (word * 2561) >> 8 & 0x00ff00ff00ff00ff; /* pairs of digits, then fours, then all eight */
    word = (word * 6553601) >> 16 & 0x0000ffff0000ffff;
    return (word * 42949672960001) >> 32;
}

/* Digits, to the end of *mantissa. What flows over is the caller's to find, by the count of digits. */
static const char *take_digits(const char *at, const char *end, uint64_t *mantissa) {
    for (; at < end && is_digit(*at); at++) *mantissa = *mantissa * 10 + (uint64_t)(*at - '0');
    return at;
}

/* The same, quick where many digits are expected. */
static const char *take_fraction(const char *at, const char *end, uint64_t *mantissa) {
    if (end - at >= 16) {
        int first, second;
        const uint64_t high = front_digits(at, &first), next = front_digits(at + 8, &second);
        const uint64_t full = -(uint64_t)(first == 8);
        second &= (int)full;
        *mantissa = (*mantissa * TENS[first] + high) * TENS[second] + (next & full);
        at += first + second;
    }
    return take_digits(at, end, mantissa);
}

/* mantissa / 10^power to the nearest float64, ties to even; 0 < mantissa, power <= 27. */
static double divide(uint64_t mantissa, int power) {
    const uint64_t divisor = POWERS_OF_FIVE[power];
    const int mantissa_shift = __builtin_clzll(mantissa), divisor_shift = __builtin_clzll(divisor);
    /* Both with their top bit set, and half of the one over the other: a quotient of 63 or 64 bits. */
    const uint128_t numerator = (uint128_t)(mantissa << mantissa_shift) << 63;
    const uint64_t denominator = divisor << divisor_shift;
    uint64_t quotient = (uint64_t)(numerator / denominator);
    const bool inexact = (uint128_t)quotient * denominator != numerator;
    int exponent = divisor_shift - mantissa_shift - power - 63;
    if (!(quotient >> 63)) {
        quotient <<= 1;
        exponent--;
    }
    uint64_t significand = quotient >> 11;
    const uint64_t rest = quotient & 0x7ff;
    if (rest > 0x400 || (rest == 0x400 && (inexact || (significand & 1)))) significand++;
    /* A carry out of the significand runs into the exponent, which is what it should do. */
    const uint64_t bits = ((uint64_t)(exponent + 11 + 1023 + 52) << 52) + (significand - ((uint64_t)1 << 52));
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

/* e, its sign and its digits. */
static const char *take_exponent(const char *at, const char *end, int64_t *exponent) {
    uint64_t power = 0;
    const bool negative = ++at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+')) at++;
    const char *digits = at;
    at = take_digits(at, end, &power);
    if (at == digits) return 0;
    if (at - digits > 8) power = 99999999; /* far beyond float64 in any case */
    *exponent += negative ? -(int64_t)power : (int64_t)power;
    return at;
}

/* A JSON number within float64. */
static const char *take_number(const char *at, const char *end, float *value) {
    at = skip_space(at, end);
    const bool negative = at < end && *at == '-';
    at += negative;
    const char *start = at;
    uint64_t mantissa = 0;
    int64_t exponent = 0;
    at = take_digits(at, end, &mantissa);
    int64_t digits = at - start;
    if (digits == 0 || (digits > 1 && *start == '0')) return 0;
    if (at < end && *at == '.') {
        const char *fraction = ++at;
        at = take_fraction(at, end, &mantissa);
        if (at == fraction) return 0;
        exponent = fraction - at;
        digits -= exponent;
    }
    if (at < end && (*at | 0x20) == 'e' && !(at = take_exponent(at, end, &exponent))) return 0;
    double magnitude;
    if (digits <= 19 && mantissa >> 53 == 0 && exponent >= -22 && exponent <= 22) {
        magnitude = exponent < 0 ? (double)mantissa / POWERS_OF_TEN[-exponent] : (double)mantissa * POWERS_OF_TEN[exponent];
    } else if (digits <= 19 && mantissa && exponent >= -27 && exponent < 0) {
        magnitude = divide(mantissa, (int)-exponent);
    } else {
        char *stop;
        magnitude = strtod(start, &stop);
        if (stop != at || magnitude > DBL_MAX) return 0;
    }
    const float rounded = (float)magnitude;
    uint32_t bits;
    memcpy(&bits, &rounded, 4);
    bits |= (uint32_t)negative << 31;
    memcpy(value, &bits, 4);
    return at;
}

#ifdef __SSE2__

enum { MOST_DECIMALS = 14 }; /* with the digit before the point less than 2^53, so exact as a float64 */

/* Where commas are among 64 bytes, a bit each. */
static uint64_t find_commas(const char *at) {
    uint64_t found = 0;
    for (int i = 0; i < 4; i++) {
        const __m128i text = _mm_loadu_si128((const __m128i *)at + i);
        found |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(text, _mm_set1_epi8(','))) << 16 * i;
    }
    return found;
}

/* The last `count` of the 16 bytes before `stop` as a number; false if one is no digit. */
static bool last_digits(const char *stop, int64_t count, uint64_t *number) {
    static const int8_t LAST[32] = {[16] = -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    const __m128i text = _mm_loadu_si128((const __m128i *)(stop - 16)), mask = _mm_loadu_si128((const __m128i *)(LAST + count));
    const __m128i digits = _mm_and_si128(_mm_sub_epi8(text, _mm_set1_epi8('0')), mask);
    const __m128i most = _mm_min_epu8(digits, _mm_set1_epi8(9));
    if (_mm_movemask_epi8(_mm_cmpeq_epi8(most, digits)) != 0xffff) return false;
    const __m128i first = _mm_mullo_epi16(_mm_and_si128(digits, _mm_set1_epi16(0xff)), _mm_set1_epi16(10));
    const __m128i pairs = _mm_add_epi16(first, _mm_srli_epi16(digits, 8));
    const __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi32(1 << 16 | 100));
    const __m128i eights = _mm_madd_epi16(_mm_packs_epi32(fours, fours), _mm_set1_epi32(1 << 16 | 10000));
    const uint64_t both = (uint64_t)_mm_cvtsi128_si64(eights);
    *number = (uint32_t)both * TENS[8] + (both >> 32);
    return true;
}

#endif

/* As many numbers as come in a row with a comma behind each, of a digit, a point and a few decimals, as most are; from
 * the first other one on, the caller goes on. Where they end is found first, and what they are is made apart from it,
 * so that the processor works at several at a time. */
static const char *take_plain(const char *body, const char *at, const char *end, float **values) {
#ifdef __SSE2__
    if (at - body < 16) return at; /* before a number's end 16 bytes are read */
    while (end - at > 64) {
        const char *start = at;
        int64_t mantissas[16]; /* of at least 4 bytes each */
        double powers[16];
        int size = 0;
        for (uint64_t commas = find_commas(at); commas; commas &= commas - 1) {
            const char *stop = at + __builtin_ctzll(commas), *whole = start + (*start == '-');
            const int64_t count = stop - whole - 2;
            uint64_t decimals;
            if (count < 1 || count > MOST_DECIMALS || !is_digit(*whole) || whole[1] != '.') break;
            if (!last_digits(stop, count, &decimals)) break;
            mantissas[size] = (int64_t)((uint64_t)(*whole - '0') * TENS[count] + decimals);
            powers[size++] = *start == '-' ? -POWERS_OF_TEN[count] : POWERS_OF_TEN[count];
            start = stop + 1;
        }
        for (int i = 0; i < size; i++) *(*values)++ = (float)((double)mantissas[i] / powers[i]);
        if (start == at) break;
        at = start;
    }
#else
    (void)body, (void)end, (void)values;
#endif
    return at;
}

/* Numbers between brackets; *count of them. */
static const char *take_row(const char *body, const char *at, const char *end, float *values, int64_t *count) {
    const float *first = values;
    if (!(at = take(at, end, '['))) return 0;
    for (const char *next = at; next; next = take(at, end, ',')) {
        next = take_plain(body, next, end, &values);
        if (!(at = take_number(next, end, values++))) return 0;
    }
    *count = values - first;
    return take(at, end, ']');
}

/* A part of a list of sequences: from its opening bracket or, resumed, from the place after a row, to its end or, cut,
 * to a row's end that is the text's. Resumed, the first shape goes on with the sequence of the row before, and may be
 * empty. */
static int64_t read_part(const char *body, int64_t stop, int64_t *position, bool resumed, bool cut, float *values,
                         int64_t *shapes, int64_t max_sequences) {
    const char *at = body + *position, *end = body + stop, *next;
    int64_t sequences = 1, count;
    shapes[0] = shapes[1] = 0;
    if (!resumed && (!(at = take(at, end, '[')) || !(at = take(at, end, '[')))) return -1;
    for (bool row = !resumed;; row = true) {
        int64_t *rows = shapes + 2 * sequences - 2, *width = rows + 1;
        if (row) {
            if (!(at = take_row(body, at, end, values, &count))) return -1;
            if ((*rows)++ == 0) *width = count;
            if (count != *width) return -1;
            values += count;
            if (cut && at == end) break;
        }
        if ((next = take(at, end, ','))) { /* one more row */
            at = next;
        } else if (!(at = take(at, end, ']'))) {
            return -1;
        } else if ((next = take(at, end, ','))) { /* one more sequence */
            if (sequences == max_sequences || !(at = take(next, end, '['))) return -1;
            rows[2] = rows[3] = 0;
            sequences++;
        } else if ((at = take(at, end, ']'))) {
            break;
        } else {
            return -1;
        }
    }
    *position = at - body;
    return sequences;
}

typedef struct {
    const char *body;
    int64_t stop, position;
    float *values;
    int64_t *shapes, max_sequences, count;
} rest_t;

static void read_rest_of_lists(void *of) {
    rest_t *rest = of;
    rest->count = read_part(rest->body, rest->stop, &rest->position, true, false, rest->values, rest->shapes, rest->max_sequences);
}

static int64_t count_numbers(const int64_t *shapes, int64_t sequences) {
    int64_t count = 0;
    for (int64_t i = 0; i < sequences; i++) count += shapes[2 * i] * shapes[2 * i + 1];
    return count;
}

/* See float_text.py: read. */
int64_t read_lists(const char *body, int64_t middle, int64_t stop, int64_t *position, float *values, int64_t *shapes,
                   int64_t max_sequences) {
    if (!middle) return read_part(body, stop, position, false, false, values, shapes, max_sequences);
    rest_t rest = {body, stop, middle, values + (middle - *position) / 2 + 1, shapes + 2 * max_sequences, max_sequences, 0};
    half_t half = {.work = read_rest_of_lists, .of = &rest};
    offer(&half);
    int64_t count = read_part(body, middle, position, false, true, values, shapes, max_sequences);
    const bool goes_on = count >= 0 && *position == middle; /* else the list is wrong, or ends in the first half */
    finish(&half, goes_on);
    if (!goes_on) return count;
    if (rest.count < 0) return -1;
    const int64_t before = count_numbers(shapes, count), after = count_numbers(rest.shapes, rest.count);
    memmove(values + before, rest.values, (size_t)after * 4);
    int64_t *last = shapes + 2 * (count - 1); /* the sequence that was cut in two */
    if (*rest.shapes && rest.shapes[1] != last[1]) return -1;
    *last += *rest.shapes;
    memmove(last + 2, rest.shapes + 2, (size_t)(rest.count - 1) * 16);
    *position = rest.position;
    return count + rest.count - 1;
}

/* The same of a list of numbers; a cut is behind a comma. */
static int64_t read_some_numbers(const char *body, int64_t stop, int64_t *position, bool resumed, bool cut, float *values) {
    const char *at = body + *position, *end = body + stop, *next;
    const float *first = values;
    if (!resumed && !(at = take(at, end, '['))) return -1;
    do {
        at = take_plain(body, at, end, &values);
        if (!(at = take_number(at, end, values++))) return -1;
        if ((next = take(at, end, ','))) at = next;
    } while (next && !(cut && at == end));
    if (!next && !(at = take(at, end, ']'))) return -1;
    *position = at - body;
    return values - first;
}

static void read_rest_of_numbers(void *of) {
    rest_t *rest = of;
    rest->count = read_some_numbers(rest->body, rest->stop, &rest->position, true, false, rest->values);
}

/* See float_text.py: read_flat. */
int64_t read_numbers(const char *body, int64_t middle, int64_t stop, int64_t *position, float *values) {
    if (!middle) return read_some_numbers(body, stop, position, false, false, values);
    rest_t rest = {.body = body, .stop = stop, .position = middle, .values = values + (middle - *position) / 2 + 1};
    half_t half = {.work = read_rest_of_numbers, .of = &rest};
    offer(&half);
    const int64_t count = read_some_numbers(body, middle, position, false, true, values);
    const bool goes_on = count >= 0 && *position == middle; /* else the list is wrong, or ends in the first half */
    finish(&half, goes_on);
    if (!goes_on) return count;
    if (rest.count < 0) return -1;
    memmove(values + count, rest.values, (size_t)rest.count * 4);
    *position = rest.position;
    return count + rest.count;
}

/* ------------------------------------------------------------------------------------------------ writing */

enum { LEAST_POWER = -31 };

/* 10^n / 2^(floor(log2 10^n) - 63), rounded up; n from LEAST_POWER to 45. A test makes them again. */
static const uint64_t SCALES[] = {
    0x81ceb32c4b43fcf5, 0xa2425ff75e14fc32, 0xcad2f7f5359a3b3f, 0xfd87b5f28300ca0e, 0x9e74d1b791e07e49,
    0xc612062576589ddb, 0xf79687aed3eec552, 0x9abe14cd44753b53, 0xc16d9a0095928a28, 0xf1c90080baf72cb2,
    0x971da05074da7bef, 0xbce5086492111aeb, 0xec1e4a7db69561a6, 0x9392ee8e921d5d08, 0xb877aa3236a4b44a,
    0xe69594bec44de15c, 0x901d7cf73ab0acda, 0xb424dc35095cd810, 0xe12e13424bb40e14, 0x8cbccc096f5088cc,
    0xafebff0bcb24aaff, 0xdbe6fecebdedd5bf, 0x89705f4136b4a598, 0xabcc77118461cefd, 0xd6bf94d5e57a42bd,
    0x8637bd05af6c69b6, 0xa7c5ac471b478424, 0xd1b71758e219652c, 0x83126e978d4fdf3c, 0xa3d70a3d70a3d70b,
    0xcccccccccccccccd, 0x8000000000000000, 0xa000000000000000, 0xc800000000000000, 0xfa00000000000000,
    0x9c40000000000000, 0xc350000000000000, 0xf424000000000000, 0x9896800000000000, 0xbebc200000000000,
    0xee6b280000000000, 0x9502f90000000000, 0xba43b74000000000, 0xe8d4a51000000000, 0x9184e72a00000000,
    0xb5e620f480000000, 0xe35fa931a0000000, 0x8e1bc9bf04000000, 0xb1a2bc2ec5000000, 0xde0b6b3a76400000,
    0x8ac7230489e80000, 0xad78ebc5ac620000, 0xd8d726b7177a8000, 0x878678326eac9000, 0xa968163f0a57b400,
    0xd3c21bcecceda100, 0x84595161401484a0, 0xa56fa5b99019a5c8, 0xcecb8f27f4200f3a, 0x813f3978f8940985,
    0xa18f07d736b90be6, 0xc9f2c9cd04674edf, 0xfc6f7c4045812297, 0x9dc5ada82b70b59e, 0xc5371912364ce306,
    0xf684df56c3e01bc7, 0x9a130b963a6c115d, 0xc097ce7bc90715b4, 0xf0bdc21abb48db21, 0x96769950b50d88f5,
    0xbc143fa4e250eb32, 0xeb194f8e1ae525fe, 0x92efd1b8d0cf37bf, 0xb7abc627050305ae, 0xe596b7b0c643c71a,
    0x8f7e32ce7bea5c70, 0xb35dbf821ae4f38c};

/* scale * value / 2^64, with any lost bit put into the lowest one. */
static uint32_t scale_to_odd(uint64_t scale, uint32_t value) {
    const uint128_t product = (uint128_t)scale * value;
    return (uint32_t)(product >> 64) | ((uint64_t)product >> 33 != 0);
}

static int floor_log10(int power_of_two) { return (power_of_two * 1262611) >> 22; } /* of 2^n */
static int floor_log2_of_ten(int power) { return (power * 1741647) >> 19; }          /* of 10^n */

/* Shortest decimal digits * 10^*power of a finite float32 of this magnitude; digits may end in zeros. */
static uint32_t shortest(uint32_t bits, int *power) {
    const uint32_t fraction = bits & 0x7fffff, biased = bits >> 23;
    const uint32_t significand = biased ? fraction | 0x800000 : fraction;
    const int exponent = biased ? (int)biased - 150 : -149;
    const uint32_t below_point = (((uint32_t)1 << (-exponent & 31)) - 1) & significand;
    if (((uint32_t)-exponent < 24) & (below_point == 0)) { /* a whole number below 2^24 */
        *power = 0;
        return significand >> -exponent;
    }
    const bool odd = significand & 1, lower_is_closer = fraction == 0 && biased > 1;
    /* floor(log10 of the interval's width), which is three quarters where the lower neighbour is closer */
    const int k = lower_is_closer ? (exponent * 1262611 - 524031) >> 22 : floor_log10(exponent);
    const int shift = exponent + floor_log2_of_ten(-k) + 1;
    const uint64_t scale = SCALES[-k - LEAST_POWER];
    const uint32_t lower = scale_to_odd(scale, (4 * significand - 2 + lower_is_closer) << shift) + odd;
    const uint32_t value = scale_to_odd(scale, 4 * significand << shift);
    const uint32_t upper = scale_to_odd(scale, (4 * significand + 2) << shift) - odd;
    const uint32_t whole = value / 4;
    /* One digit fewer if just one such decimal is inside; else the nearer of the two around. Selected, not branched to. */
    const uint32_t tens = whole / 10;
    const bool tens_below = lower <= 40 * tens, tens_above = 40 * tens + 40 <= upper;
    const bool below = lower <= 4 * whole, above = 4 * whole + 4 <= upper;
    const uint32_t middle = 4 * whole + 2;
    const bool nearer_above = value + (whole & 1) > middle;
    const uint32_t full = whole + (((below ^ above) & above) | (!(below ^ above) & nearer_above));
    const bool shorter = whole >= 10 && tens_below != tens_above;
    *power = k + shorter;
    return shorter ? tens + tens_above : full;
}

/* 2^(b - 150) / 10^k for a float32 whose exponent is stored as b, with the k of `shortest`: what its last bit is worth
 * where its shortest decimal is a whole number, from 1 to 10. */
static double UNITS[255];

__attribute__((constructor)) static void make_units(void) {
    for (int biased = 1; biased < 255; biased++) {
        const int exponent = biased - 150, k = floor_log10(exponent);
        UNITS[biased] = (double)SCALES[-k - LEAST_POWER] / (double)((uint64_t)1 << (63 - exponent - floor_log2_of_ten(-k)));
    }
}

enum { BLOCK = 64 };

/* The decimals of some numbers, digits * 10^power, as `shortest` finds them; of 7 to 9 digits, with zeros at their end, or
 * 0. Float64 has 29 bits more than float32: where a decimal is so near to the middle between two others, or to the edge
 * of its number's interval, as to leave a doubt, `shortest` decides. */
static void shorten(const uint32_t *bits, int count, uint32_t *digits, int *powers) {
    static const double ROUND = 6755399441055744.0; /* 1.5 * 2^52: behind its point there is no bit left */
    static const double DOUBT = 1e-6;               /* errors are below 1e-7 */
    double values[BLOCK], units[BLOCK], margins[BLOCK];
    for (int i = 0; i < count; i++) {
        units[i] = UNITS[bits[i] >> 23 & 0xff];
        values[i] = (double)(int32_t)((bits[i] & 0x7fffff) | 0x800000) * units[i];
    }
    for (int i = 0; i < count; i++) {
        const double value = values[i], tens = ((value * 0.1 + ROUND) - ROUND) * 10, ones = (value + ROUND) - ROUND;
        const double inside = units[i] * 0.5 - __builtin_fabs(value - tens), within = __builtin_fabs(inside);
        const double from_middle = 0.5 - __builtin_fabs(value - ones);
        values[i] = inside < 0 ? ones : tens;
        margins[i] = within < from_middle ? within : from_middle;
    }
    for (int i = 0; i < count; i++) digits[i] = (uint32_t)(int32_t)values[i];
    for (int i = 0; i < count; i++) {
        const uint32_t magnitude = bits[i] & 0x7fffffff;
        powers[i] = floor_log10((int)(magnitude >> 23) - 150);
        /* Below a power of two numbers are closer. Of the least ones, with no leading bit, and of 0 the unit is 0 here. */
        if ((magnitude & 0x7fffff) == 0 || margins[i] < DOUBT) {
            digits[i] = magnitude ? shortest(magnitude, &powers[i]) : 0;
            for (; magnitude && digits[i] < 1000000; powers[i]--) digits[i] *= 10;
        }
    }
}

/* The eight digits of a number, a byte each, the last one in the lowest: fours of digits, then pairs, then digits. */
static uint64_t spread(uint32_t number) {
    const uint64_t fours = number % 10000 | (uint64_t)(number / 10000) << 32;
    const uint64_t hundreds = (fours * 10486 >> 20) & 0x0000007f0000007f;
    const uint64_t pairs = (fours - 100 * hundreds) | hundreds << 16;
    const uint64_t tens = (pairs * 103 >> 10) & 0x000f000f000f000f;
    return (pairs - 10 * tens) | tens << 8;
}

/* digits * 10^power, of 7 to 9 digits, as orjson writes it: 0.000001 … 999999999999.0 plain, the rest as 1.5e-7, 1.5e+13.
 * Writes up to 24 bytes, of which those before the returned place count. */
static char *put_decimal(char *out, uint32_t digits, int power) {
    const int size = 7 + (digits >= TENS[7]) + (digits >= TENS[8]), point = size + power; /* `bsr` would be slow */
    const uint32_t nine = digits * (uint32_t)TENS[9 - size], first = nine / 100000000;
    const uint64_t others = spread(nine % 100000000);
    const int zero_bits = __builtin_ctzll(others | (uint64_t)1 << 63) + !others;
    const int more = 8 - (zero_bits >> 3); /* digits after the first, without the zeros at their end */
    const uint64_t text = __builtin_bswap64(others) + 0x3030303030303030;
    if (point >= -5 && point <= 1) { /* most, so without a branch: the point is at the same place in all of them */
        const int below = point < 1, zeros = -point & -below;
        memcpy(out, "0.000000", 8);
        out += (2 + zeros) & -below;
        *out = (char)('0' + first);
        out += 2 - below;
        memcpy(out, &text, 8);
        return out + (more > 1 - below ? more : 1 - below);
    }
    out[0] = (char)('0' + first);
    if (point > 1 && point <= 13) {
        const int fraction = more >= point ? more + 1 - point : 1;
        memcpy(out + 1, &text, 8);
        memcpy(out + 9, "00000", 5);
        memmove(out + point + 1, out + point, 8);
        out[point] = '.';
        return out + point + 1 + fraction;
    }
    out[1] = '.';
    memcpy(out + 2, &text, 8);
    out += more ? more + 2 : 1;
    const int exponent = point - 1, magnitude = exponent < 0 ? -exponent : exponent;
    *out++ = 'e';
    *out++ = exponent < 0 ? '-' : '+';
    if (magnitude > 9) *out++ = (char)('0' + magnitude / 10);
    *out++ = (char)('0' + magnitude % 10);
    return out;
}

/* Numbers of one list, without its brackets; 0 if one is not finite. */
static char *put_row(char *out, const float *values, int64_t count) {
    uint32_t bits[BLOCK], digits[BLOCK];
    int powers[BLOCK];
    for (int64_t start = 0; start < count; start += BLOCK) {
        const int size = count - start < BLOCK ? (int)(count - start) : BLOCK;
        bool finite = true;
        memcpy(bits, values + start, (size_t)size * 4);
        for (int i = 0; i < size; i++) finite &= (bits[i] & 0x7f800000) != 0x7f800000;
        if (!finite) return 0;
        shorten(bits, size, digits, powers);
        for (int i = 0; i < size; i++) {
            *out = '-';
            out += bits[i] >> 31;
            if (digits[i]) {
                out = put_decimal(out, digits[i], powers[i]);
            } else {
                memcpy(out, "0.0", 3);
                out += 3;
            }
            *out++ = ',';
        }
    }
    return count ? out - 1 : out;
}

/* Lists of the shape, or numbers where that is empty, between commas; `stride` values each. */
static char *put_items(char *out, const float *values, int64_t count, int64_t stride, const int64_t *shape, int64_t rank) {
    if (!rank) return put_row(out, values, count);
    for (int64_t index = 0; index < count; index++) {
        if (index) *out++ = ',';
        *out++ = '[';
        const float *item = values + index * stride;
        if (!(out = put_items(out, item, *shape, *shape ? stride / *shape : 0, shape + 1, rank - 1))) return 0;
        *out++ = ']';
    }
    return out;
}

typedef struct {
    const float *values;
    int64_t count, stride;
    const int64_t *shape;
    int64_t rank;
    char *out;
    int64_t size;
} items_t;

static void write_part(void *of) {
    items_t *items = of;
    const char *end = put_items(items->out, items->values, items->count, items->stride, items->shape, items->rank);
    items->size = end ? end - items->out : -1;
}

/* See float_text.py: write. */
void write_items(const float *values, const int64_t *shape, int64_t rank, int64_t middle, char *out, char *rest_out,
                 int64_t *sizes) {
    int64_t stride = 1;
    for (int64_t axis = 1; axis < rank; axis++) stride *= shape[axis];
    items_t first = {values, middle, stride, shape + 1, rank - 1, out, 0};
    items_t rest = {values + middle * stride, *shape - middle, stride, shape + 1, rank - 1, rest_out, 0};
    half_t half = {.work = write_part, .of = &rest};
    if (!middle) {
        write_part(&rest);
    } else {
        offer(&half);
        write_part(&first);
        finish(&half, true);
    }
    sizes[0] = first.size;
    sizes[1] = rest.size;
}
