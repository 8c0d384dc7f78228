// As much of CUDA as the kernels of one cube use, on a processor: a thread a unit, matrix instructions by the tables of
// the PTX ISA ("matrix fragments for mma.m16n8k16", "ldmatrix"). Slow, and right for what it is asked.
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <type_traits>
#include <vector>

using std::max;
using std::min;

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(units)
#define __restrict__

struct Index {
    unsigned x, y, z;
};
static const unsigned warpSize = 32;
static thread_local Index threadIdx;
static Index blockIdx, blockDim, gridDim;

alignas(128) static char shared_memory[1 << 20];
static std::barrier<> *of_cube, *of_plane[32];

static void __syncthreads() { of_cube->arrive_and_wait(); }
static unsigned __activemask() { return ~0u; }

// Numbers that the units of a plane tell each other; nobody writes before all have read.
template <class T>
struct Told {
    T all[1024];
    template <class Read>
    auto operator()(T own, Read read) {
        unsigned unit = threadIdx.x;
        all[unit] = own;
        of_plane[unit / 32]->arrive_and_wait();
        auto answer = read(all + unit / 32 * 32, unit % 32);
        of_plane[unit / 32]->arrive_and_wait();
        return answer;
    }
};

static float __shfl_xor_sync(unsigned, float value, unsigned mask) {
    static Told<float> told;
    return told(value, [&](float *all, unsigned lane) { return all[lane ^ mask]; });
}

template <class T>
static uint32_t __cvta_generic_to_shared(T *pointer) {
    return (uint32_t)((char *)pointer - shared_memory);
}

static float widened(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float number;
    memcpy(&number, &wide, 4);
    return number;
}

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(int number) : __nv_bfloat16((float)number) {}
    __nv_bfloat16(float number) {
        uint32_t wide;
        memcpy(&wide, &number, 4);
        bits = (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
    }
    operator float() const { return widened(bits); }
};

template <class R>
static void ldmatrix_x4(R &to, uint32_t row_of_this_unit, bool turned) {
    static Told<uint32_t> told;
    told(row_of_this_unit, [&](uint32_t *rows, unsigned lane) {
        uint32_t registers[4];
        for (int matrix = 0; matrix < 4; matrix++) {
            uint16_t pair[2];
            for (unsigned k = 0; k < 2; k++) {
                unsigned row = turned ? lane % 4 * 2 + k : lane / 4;
                unsigned column = turned ? lane / 4 : lane % 4 * 2 + k;
                memcpy(&pair[k], shared_memory + rows[matrix * 8 + row] + column * 2, 2);
            }
            registers[matrix] = pair[0] | (uint32_t)pair[1] << 16;
        }
        to = R{registers[0], registers[1], registers[2], registers[3]};
        return 0;
    });
}

struct Fragments {
    uint32_t a[4], b[2];
};

template <class R, class A, class B, class C>
static void mma_m16n8k16(R &to, A a, B b, C c) {
    static Told<Fragments> told;
    Fragments own = {{a.i_0, a.i_1, a.i_2, a.i_3}, {b.i_0, b.i_1}};
    told(own, [&](Fragments *all, unsigned lane) {
        auto half = [](uint32_t pair, unsigned k) { return widened(k % 2 ? pair >> 16 : pair & 0xffff); };
        float sums[4];
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
            double sum = 0;
            for (unsigned k = 0; k < 16; k++) {
                unsigned of_a = row % 8 * 4 + k % 8 / 2, of_b = column * 4 + k % 8 / 2;
                sum += (double)half(all[of_a].a[row / 8 + k / 8 * 2], k) * half(all[of_b].b[k / 8], k);
            }
            sums[i] = (float)sum;
        }
        to = R{c.i_0 + sums[0], c.i_1 + sums[1], c.i_2 + sums[2], c.i_3 + sums[3]};
        return 0;
    });
}

// Cooperative matrices of CUDA C++. Nobody may ask which unit holds which number: here every unit has both operands whole,
// and its share of the sums.
namespace nvcuda::wmma {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
    float x[std::is_same_v<Use, matrix_a> ? M * K : std::is_same_v<Use, matrix_b> ? K * N : M * N / 32];
};

template <int M, int N, int K>
static void fill_fragment(fragment<accumulator, M, N, K, float> &to, float value) {
    std::fill(std::begin(to.x), std::end(to.x), value);
}

template <class Use, int M, int N, int K, class T, class Layout>
static void load_matrix_sync(fragment<Use, M, N, K, T, Layout> &to, const T *from, unsigned pitch) {
    if ((uintptr_t)from % 32 || pitch * sizeof(T) % 16) abort();
    const int rows = std::is_same_v<Use, matrix_a> ? M : K, columns = std::is_same_v<Use, matrix_a> ? K : N;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            to.x[r * columns + c] = (float)from[std::is_same_v<Layout, row_major> ? r * pitch + c : c * pitch + r];
}

template <int M, int N, int K, class T, class A, class B>
static void mma_sync(fragment<accumulator, M, N, K, float> &to, const fragment<matrix_a, M, N, K, T, A> &a,
                     const fragment<matrix_b, M, N, K, T, B> &b, const fragment<accumulator, M, N, K, float> &c) {
    for (int i = 0; i < M * N / 32; i++) {
        int at = threadIdx.x % 32 * (M * N / 32) + i;
        double sum = 0;
        for (int k = 0; k < K; k++) sum += (double)a.x[at / N * K + k] * b.x[k * N + at % N];
        to.x[i] = c.x[i] + (float)sum;
    }
}

template <int M, int N, int K>
static void store_matrix_sync(float *to, const fragment<accumulator, M, N, K, float> &from, unsigned pitch, layout_t layout) {
    if ((uintptr_t)to % 32 || pitch % 4 || layout != mem_row_major) abort();
    for (int i = 0; i < M * N / 32; i++) {
        int at = threadIdx.x % 32 * (M * N / 32) + i;
        to[at / N * pitch + at % N] = from.x[i];
    }
    of_plane[threadIdx.x / 32]->arrive_and_wait();
}
}  // namespace nvcuda::wmma

template <class Kernel>
static void launch(unsigned units, Index cubes, Kernel kernel) {
    gridDim = cubes;
    blockDim = {units, 1, 1};
    for (unsigned y = 0; y < cubes.y; y++)
        for (unsigned x = 0; x < cubes.x; x++) {
            blockIdx = {x, y, 0};
            std::barrier<> cube(units);
            of_cube = &cube;
            for (unsigned plane = 0; plane < units / 32; plane++) of_plane[plane] = new std::barrier<>(32);
            std::vector<std::thread> threads;
            for (unsigned unit = 0; unit < units; unit++)
                threads.emplace_back([=] {
                    threadIdx = {unit, 0, 0};
                    kernel();
                });
            for (auto &thread : threads) thread.join();
            for (unsigned plane = 0; plane < units / 32; plane++) delete of_plane[plane];
        }
}
