// A stand-in for llama-server behind a front: it decodes random queries and keys, and says what it was asked.
#pragma once

#include "server/front/front.h"
#include "view/live_model.h"

#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace attnscope::test {

using Json = nlohmann::json;

class LlamaStandIn {
public:
    explicit LlamaStandIn(server::LiveSequences& live);
    ~LlamaStandIn();
    LlamaStandIn(const LlamaStandIn&) = delete;
    LlamaStandIn& operator=(const LlamaStandIn&) = delete;

    // Of the latest completion or chat.
    Json last_body() const;
    // The rows of the token at `index` of the latest line.
    std::vector<float> rows(size_t index) const;

    static constexpr server::ContextId context{1, 0};
    static constexpr int n_ctx = 64;
    int port = 0;
    std::atomic<size_t> skipped_token{SIZE_MAX}; // has no event of its own: half a character
    std::atomic<bool> wrong_slot{false};
    std::atomic<int> pace_ms{0};             // between two tokens of a stream; 0: all at once
    std::atomic<bool> broke_off{false};      // a stream whose client left
    std::atomic<bool> records{false};        // every line, in "a_model-1-0.attn"
    std::atomic<bool> tells_too_much{false}; // of the tokens of a text
    std::atomic<bool> breaks{false};         // its stream ends without its last event
    std::string model_id = "m";              // that it tells where it tells its vocabulary
    std::atomic<bool> one_cache{false};      // for all slots
    std::string stopping_word;               // what a completion ends with, if anything
    std::atomic<size_t> longest_cut{0};      // bytes of the longest text that it cut into tokens
    std::atomic<int> vocab_type{0};          // that it tells; 0: it tells none
    std::atomic<bool> lacks_a_letter{false}; // among its tokens
    std::atomic<size_t> long_piece{0};       // bytes of its longest token, where that is not 1

private:
    struct Line {
        int64_t number = 0;
        int32_t slot = -1;
        std::vector<int32_t> generated;
        LiveModel model;
    };
    void tokenize(const httplib::Request& q, httplib::Response& a);
    std::shared_ptr<Line> begin(const Json& body, const Json& prompt);
    void decode(Line& line, int32_t token);
    void completion(const httplib::Request& q, httplib::Response& a);
    void chat(const httplib::Request& q, httplib::Response& a);
    std::string event(const Json& body, const Line& line, size_t i) const;
    std::string last_event(const Json& body, const Line& line) const;
    void stream(const Json& body, const std::shared_ptr<Line>& line, httplib::Response& a);

    server::LiveSequences& live_;
    httplib::Server http_;
    std::thread thread_, reader_;
    std::atomic<bool> done_{false};
    mutable std::mutex mutex_;
    Json last_;
    std::vector<std::vector<float>> rows_;
    int64_t n_lines_ = 0;
};

// A front before it.
class BeforeLlama : public testing::Test {
protected:
    explicit BeforeLlama(const std::function<void(server::FrontOptions&)>& adjust = {});
    // The body of the answer, which has that status.
    std::string post(const std::string& path, const Json& body, int status = 200, httplib::Headers* headers = nullptr);
    Json get(const std::string& path);
    static std::vector<Json> events(const std::string& text);
    static std::vector<float> decoded(const std::string& base64);
    // The rows of an answer that is the rows of the token at `index`.
    void expect_row(const Json& attention, size_t index);
    bool soon(const std::function<bool()>& what) const;

    server::LiveSequences live;
    LlamaStandIn program{live};
    std::unique_ptr<server::Front> front;
};

} // namespace attnscope::test
