// Small capture files of every format, for tests.
#pragma once

#include "support/capture_maker.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace attnscope::test {

void write_bytes(const std::string& path, const std::string& bytes);
// float32, C order; `fortran` permutes into Fortran order first.
std::string npy_bytes(const std::vector<int64_t>& shape, const std::vector<float>& values, bool fortran = false);
// One tensor of float32.
std::string safetensors_bytes(const std::vector<int64_t>& shape, const std::vector<float>& values,
                              const std::string& name = "attention");
void write_npz(const std::string& path, const std::string& member, const std::string& npy, bool deflate);
// Several members, each called by its name and `suffix`, not compressed.
void write_npz(const std::string& path, const std::vector<std::pair<std::string, std::string>>& members,
               const std::string& suffix = ".npy");
void write_halo_weave(const std::string& folder, const SyntheticCapture& capture, bool json_form);

} // namespace attnscope::test
