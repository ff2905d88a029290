#include "attention/simd.h"

namespace attnscope {

const RowKernels& row_kernels() {
    static const RowKernels& chosen = avx512_kernels() ? *avx512_kernels()
                                      : avx2_kernels() ? *avx2_kernels()
                                                       : scalar_kernels();
    return chosen;
}

const char* attention_simd_name() {
    return row_kernels().name;
}

} // namespace attnscope
