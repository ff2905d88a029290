// Says what attnscope_core, the library of readers, says of a file that is no recording.
#include <attnscope/recording.h>

#include <cstdio>

int main(int, char** argv) {
    const auto recording = attnscope::Recording::open(argv[0]);
    if (recording) return 1;
    std::printf("%s: %s\n", attnscope::error_kind_name(recording.error().kind), recording.error().message.c_str());
    return recording.error().kind == attnscope::ErrorKind::not_ours ? 0 : 1;
}
