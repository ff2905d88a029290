// A recording of a made T5 of 2 layers: 0 and 1 are the encoder's, 2 and 4 the decoder's, 3 and 5 cross attention. Tokens 0 to 9 are
// read, 10 is what the decoder begins with, 11 to 15 are written.
#pragma once

#include "support/file_bytes.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include <sys/wait.h>

namespace attnscope::test {

struct Outcome {
    int exit_code = -1;
    std::string output, errors;
};

class T5Recording : public testing::Test {
protected:
    Outcome attnscope(const std::string& arguments) {
        const std::string command =
            "timeout 60 '" ATTNSCOPE_BIN "' " + arguments + " >'" + dir_.file("out") + "' 2>'" + dir_.file("err") + "'";
        const int status = std::system(command.c_str());
        return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_bytes(dir_.file("out")),
                read_bytes(dir_.file("err"))};
    }
    void SetUp() override {
        ASSERT_EQ(attnscope("models make --arch t5 --layers 2 -o " + model_).exit_code, 0);
        write_bytes(dir_.file("ids"), "[5, 12, 19, 26, 33, 40, 47, 54, 61, 68]");
        read_ = "capture -m " + model_ + " --input-ids " + dir_.file("ids") + " --temp 0 --ignore-eos ";
        capture_ = read_ + "-n 5 ";
        const Outcome captured = attnscope(capture_ + "-o " + recording_);
        ASSERT_EQ(captured.exit_code, 0) << captured.errors;
        said_of_capture_ = captured.errors;
    }
    TempDir dir_;
    std::string model_ = dir_.file("t5.gguf"), recording_ = dir_.file("t5.attn");
    std::string read_, capture_, said_of_capture_; // capture_ writes 5 tokens
};

} // namespace attnscope::test
