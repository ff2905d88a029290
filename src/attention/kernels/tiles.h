// The kernels for keys in tiles (TileTask), one set per instruction set. Callable only where that set exists.
#pragma once

#include "attention/kernels/simd.h"

namespace attnscope::attention {

#if defined(__x86_64__)
void avx2_tiles_f16(const TileTask& task);
void avx2_tiles_bf16(const TileTask& task);
void avx2_tiles_f32(const TileTask& task);
void avx512_tiles_f16(const TileTask& task);
void avx512_tiles_bf16(const TileTask& task);
void avx512_tiles_f32(const TileTask& task);
#endif

} // namespace attnscope::attention
