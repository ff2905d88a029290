// A server over a model on a free port, and a client that speaks to it.
#pragma once

#include "server/http/server.h"
#include "support/temp_dir.h"

#include <attnscope/recording.h>

#include <httplib.h>
#include <nlohmann/json.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace attnscope::test {

using Json = nlohmann::json;

// made: random weights, a token a byte, a chat template; of a size that is read and decoded in no time. real: SmolLM2, where what
// it writes, how it tokenises, or that it takes its time matters.
enum class Served { made, real };

class ServedModel {
public:
    // of the made model
    static constexpr size_t n_layer = 3, n_head = 4, n_rows = n_layer * n_head, n_embd = 128, n_vocab = 260;

    // `adjust` may change the options before the server starts; without their `attention` the session captures nothing.
    explicit ServedModel(const std::function<void(server::ServerOptions&)>& adjust = {}, int32_t n_ctx = 1024,
                         Served model = Served::made);
    explicit ServedModel(Served model) : ServedModel({}, 1024, model) {}
    ~ServedModel();

    bool ok() const { return server_ != nullptr; }
    const std::string& error() const { return error_; }
    int port() const { return server_->port(); }
    Session& session() { return *session_; }
    httplib::Client client() const;

    // Requests that must succeed; a failure fails the test and gives null.
    Json get(const std::string& path) const;
    Json post(const std::string& path, const Json& body) const;
    int status(const std::string& path, const std::string& body, Json* answer = nullptr) const;
    // The events of a stream, as it comes; returning false closes the connection. Headers of the answer are checked.
    void stream(const std::string& path, const Json& body, const std::function<bool(const Json&)>& on_event) const;
    std::vector<Json> events(const std::string& path, const Json& body) const;
    // Until the engine has nothing to do; false: it was still busy after `seconds`.
    bool idle_within(double seconds) const;

private:
    TempDir dir_; // where a made model lies
    std::unique_ptr<Session> session_;
    std::unique_ptr<server::Server> server_;
    std::string error_;
};

std::string decode_base64(const std::string& text);
// The values of an "attention" object with float32 data.
std::vector<float> values_of(const Json& attention);

// A long text to read.
std::string long_text(int n_sentences);

} // namespace attnscope::test
