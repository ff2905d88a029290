// The capture of a program that is no session: what it is told of a decode, and what comes out of it when.
#include "capture/capture.h"
#include "models/model_make.h"
#include "support/temp_dir.h"

#include <attnscope/session.h>

#include <gtest/gtest.h>
#include <llama-cpp.h>

#include <algorithm>
#include <numeric>
#include <string>

using namespace attnscope;
using namespace attnscope::test;

namespace {

class Captures : public testing::TestWithParam<capture::Options::WayIn> {
protected:
    void SetUp() override {
        const std::string path = dir_.file("model.gguf");
        ASSERT_TRUE(models::make_model(models::ModelShape{}, path));
        llama_model_params mp = llama_model_default_params();
        ggml_backend_dev_t none[] = {nullptr};
        mp.devices = none;
        model_.reset(llama_model_load_from_file(path.c_str(), mp));
        ASSERT_TRUE(model_);
        capture::Options options;
        options.way_in = GetParam();
        capture_ = capture::Capture::make(options, [this](CapturedFrame&& f) -> Result<void> {
            if (refuse_) return Error{ErrorKind::io, "the disk is full"};
            EXPECT_FALSE(decoding_) << "a frame came from inside the engine";
            frames_.push_back(std::move(f.frame));
            return {};
        });
        llama_context_params cp = llama_context_default_params();
        cp.n_ctx = 128;
        cp.n_batch = 32;
        cp.n_ubatch = 8; // a decode is several graphs
        cp.cb_eval = capture_->callback();
        cp.cb_eval_user_data = capture_->callback_data();
        context_.reset(llama_init_from_model(model_.get(), cp));
        ASSERT_TRUE(context_);
    }
    // Decodes `n` tokens and tells the capture of `told`.
    Result<void> decode(size_t n, size_t told, FrameKind kind = FrameKind::prompt) {
        std::vector<int32_t> tokens(std::max(n, told));
        std::iota(tokens.begin(), tokens.end(), 3 + next_);
        next_ += static_cast<int32_t>(n);
        capture::Capture::Decode scope(*capture_,
                                       {.ids = std::span(tokens).first(told), .positions = {}, .kind = kind});
        decoding_ = true;
        const int status = llama_decode(context_.get(), llama_batch_get_one(tokens.data(), static_cast<int32_t>(n)));
        decoding_ = false;
        return scope.end(status == 0);
    }

    TempDir dir_;
    llama_model_ptr model_;
    std::unique_ptr<capture::Capture> capture_; // the context calls it
    llama_context_ptr context_;
    std::vector<Frame> frames_;
    int32_t next_ = 0;
    bool refuse_ = false, decoding_ = false;
};

} // namespace

TEST_P(Captures, GiveFramesThatAreCompleteAndJudged) {
    ASSERT_TRUE(decode(1, 1));
    ASSERT_TRUE(decode(20, 20));
    ASSERT_TRUE(decode(1, 1, FrameKind::generated));
    ASSERT_TRUE(capture_->flush());
    ASSERT_EQ(frames_.size(), 22u);
    for (size_t i = 0; i < frames_.size(); ++i) {
        EXPECT_EQ(frames_[i].index, static_cast<int64_t>(i));
        EXPECT_EQ(frames_[i].token, 3 + static_cast<int32_t>(i));
        EXPECT_EQ(frames_[i].kind, i == 21 ? FrameKind::generated : FrameKind::prompt);
        // Node by node, nobody knows while the first graph runs which heads there are to prove.
        const bool unknown = i == 0 && GetParam() == capture::Options::WayIn::callback;
        EXPECT_EQ(frames_[i].verdict, unknown ? verdict_no_witness : verdict_ok) << i;
    }
}

TEST_P(Captures, OfOtherTokensThanThoseToldFailAndSayWhere) {
    ASSERT_TRUE(decode(1, 1));
    const Result<void> more = decode(12, 10);
    ASSERT_FALSE(more);
    EXPECT_EQ(more.error().kind, ErrorKind::engine);
    EXPECT_EQ(more.error().message,
              "the capture failed at position 9: the engine's graph has 4 tokens, and the decode only 2");
    EXPECT_EQ(frames_.size(), 9u); // those of the graph before
    EXPECT_FALSE(decode(1, 1)) << "frames have no gaps";
    EXPECT_EQ(frames_.size(), 9u);

    llama_memory_clear(llama_get_memory(context_.get()), true);
    capture_->forget();
    frames_.clear();
    const Result<void> fewer = decode(3, 5);
    ASSERT_FALSE(fewer);
    EXPECT_EQ(fewer.error().message,
              "the capture failed at position 3: 2 of the decode's tokens were in no graph with attention");
    EXPECT_EQ(frames_.size(), 3u);
}

TEST_P(Captures, EndWithTheSinksOwnError) {
    ASSERT_TRUE(decode(1, 1));
    refuse_ = true;
    const Result<void> refused = decode(9, 9);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().message, "the disk is full");
    refuse_ = false;
    ASSERT_TRUE(decode(1, 1));
    ASSERT_EQ(frames_.size(), 2u);
    EXPECT_EQ(frames_.back().index, 10); // what was ready then is lost
}

TEST_P(Captures, ForgetWhatWasTakenBack) {
    ASSERT_TRUE(decode(6, 6));
    ASSERT_TRUE(decode(4, 4));
    llama_memory_seq_rm(llama_get_memory(context_.get()), 0, 6, -1);
    capture_->forget(0, 6);
    next_ = 6;
    ASSERT_TRUE(decode(4, 4));
    ASSERT_EQ(frames_.size(), 14u);
    for (size_t i = 6; i < 10; ++i) {
        const Frame &before = frames_[i], &again = frames_[i + 4];
        EXPECT_EQ(again.index, before.index);
        EXPECT_EQ(again.token, before.token);
        EXPECT_EQ(again.k, before.k); // the same number of tokens as a graph of their own had
        EXPECT_EQ(again.verdict, verdict_ok);
    }
}

INSTANTIATE_TEST_SUITE_P(Entries, Captures,
                         testing::Values(capture::Options::WayIn::interposed, capture::Options::WayIn::callback),
                         [](const auto& e) {
                             return std::string(e.param == capture::Options::WayIn::interposed ? "interposed"
                                                                                               : "callback");
                         });
