// A fuzzer without libFuzzer: its seeds, each of them cut short and with some bits turned, and noise, in the same order every time.
//   replay_<name> FOLDER
// Ends with 0 where nothing trapped. Fuzzers keep compiling this way, and what one found stays found.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) int LLVMFuzzerInitialize(int* argc, char*** argv);

namespace {

using Bytes = std::vector<uint8_t>;

void run(const Bytes& bytes) {
    // exactly as many bytes as there are, so that AddressSanitizer sees the first one behind them
    const Bytes copy(bytes.begin(), bytes.end());
    LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

} // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    if (LLVMFuzzerInitialize) LLVMFuzzerInitialize(&argc, &argv);
    std::vector<std::filesystem::path> seeds;
    if (std::filesystem::is_directory(argv[1])) {
        for (const auto& entry : std::filesystem::directory_iterator(argv[1])) seeds.push_back(entry.path());
    }
    std::sort(seeds.begin(), seeds.end());
    std::mt19937 random(1);
    int n = 0;
    for (const auto& path : seeds) {
        std::fprintf(stderr, "%s\n", path.filename().c_str()); // the last line before an abort names the input
        std::ifstream in(path, std::ios::binary);
        const Bytes bytes{std::istreambuf_iterator<char>(in), {}};
        run(bytes);
        ++n;
        if (bytes.empty()) continue;
        for (int i = 0; i < 8; ++i, n += 2) {
            run({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(random() % bytes.size())});
            Bytes turned = bytes;
            for (int k = 0; k <= i; ++k) turned[random() % turned.size()] ^= static_cast<uint8_t>(1u << random() % 8);
            run(turned);
        }
    }
    std::fprintf(stderr, "noise\n");
    for (int i = 0; i < 64; ++i, ++n) {
        Bytes noise(random() % 4096);
        for (uint8_t& b : noise) b = static_cast<uint8_t>(random());
        run(noise);
    }
    std::printf("%d inputs\n", n);
    return 0;
}
