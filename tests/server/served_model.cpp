#include "served_model.h"

#include "models/model_make.h"
#include "models/model_store.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <chrono>
#include <cstring>
#include <thread>

namespace attnscope::test {

namespace {

Result<std::string> made_in(const TempDir& dir) {
    models::ModelShape shape;
    shape.n_layer = ServedModel::n_layer;
    shape.n_head = ServedModel::n_head, shape.n_head_kv = 2, shape.head_dim = ServedModel::n_embd / ServedModel::n_head;
    const std::string path = dir.file("made.gguf");
    const Result<void> made = models::make_model(shape, path);
    return made ? Result<std::string>(path) : made.error();
}

} // namespace

ServedModel::ServedModel(const std::function<void(server::ServerOptions&)>& adjust, int32_t n_ctx, Served model) {
    SessionOptions o;
    const auto path = model == Served::real ? models::find_model("smollm2") : made_in(dir_);
    if (!path) {
        error_ = path.error().message;
        return;
    }
    o.model_path = *path;
    o.n_ctx = n_ctx;
    o.n_threads = 1; // several tests run at once
    server::ServerOptions options;
    options.port = 0;
    options.attention_threads = 2;
    options.timeout = std::chrono::seconds(120);
    if (adjust) adjust(options);
    o.capture = options.attention;
    auto session = Session::open(o);
    if (!session) {
        error_ = session.error().message;
        return;
    }
    session_ = std::move(*session);
    auto server = server::Server::start(*session_, options);
    if (!server) {
        error_ = server.error().message;
        return;
    }
    server_ = std::move(*server);
}

ServedModel::~ServedModel() = default;

httplib::Client ServedModel::client() const {
    httplib::Client client("127.0.0.1", port());
    client.set_read_timeout(120);
    return client;
}

Json ServedModel::get(const std::string& path) const {
    const auto r = client().Get(path);
    EXPECT_TRUE(r) << path;
    EXPECT_TRUE(r && r->status == 200) << path << ": " << (r ? r->body : "");
    return r && r->status == 200 ? Json::parse(r->body, nullptr, false) : Json();
}

Json ServedModel::post(const std::string& path, const Json& body) const {
    Json answer;
    const int code = status(path, body.dump(), &answer);
    EXPECT_EQ(code, 200) << path << ": " << answer.dump();
    return code == 200 ? answer : Json();
}

int ServedModel::status(const std::string& path, const std::string& body, Json* answer) const {
    const auto r = client().Post(path, body, "application/json");
    if (!r) return 0;
    if (answer) *answer = Json::parse(r->body, nullptr, false);
    return r->status;
}

void ServedModel::stream(const std::string& path, const Json& body,
                         const std::function<bool(const Json&)>& on_event) const {
    std::string waiting;
    httplib::Request request;
    request.method = "POST";
    request.path = path;
    request.body = body.dump();
    request.set_header("Content-Type", "application/json");
    bool is_stream = false;
    request.response_handler = [&](const httplib::Response& response) {
        is_stream = response.status == 200 && response.get_header_value("Content-Type") == "text/event-stream";
        return true;
    };
    request.content_receiver = [&](const char* data, size_t n, size_t, size_t) {
        waiting.append(data, n);
        for (size_t end = waiting.find("\n\n"); end != std::string::npos; end = waiting.find("\n\n")) {
            const size_t at = waiting.find("data: ");
            const std::string text = waiting.substr(at + 6, end - at - 6);
            waiting.erase(0, end + 2);
            const Json event = text == "[DONE]" ? Json("[DONE]") : Json::parse(text, nullptr, false);
            EXPECT_FALSE(event.is_discarded()) << text.substr(0, 200);
            if (!on_event(event)) return false;
        }
        return true;
    };
    auto c = client();
    c.send(request);
    EXPECT_TRUE(is_stream) << path << ": " << waiting;
}

std::vector<Json> ServedModel::events(const std::string& path, const Json& body) const {
    std::vector<Json> all;
    stream(path, body, [&](const Json& e) {
        all.push_back(e);
        return true;
    });
    return all;
}

bool ServedModel::idle_within(double seconds) const {
    const auto start = std::chrono::steady_clock::now();
    while (std::chrono::steady_clock::now() - start < std::chrono::duration<double>(seconds)) {
        const Json perf = get("/api/extra/perf");
        if (perf.value("idle", 0) == 1 && perf.value("queue", 1) == 0) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
}

std::string decode_base64(const std::string& text) {
    std::string out(text.size() / 4 * 3 + 3, '\0');
    const int n = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                                  reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
    if (n < 0) return {};
    size_t padding = 0;
    while (padding < 2 && text.size() > padding && text[text.size() - 1 - padding] == '=') ++padding;
    out.resize(static_cast<size_t>(n) - padding);
    return out;
}

std::vector<float> values_of(const Json& attention) {
    if (!attention.is_object() || attention.value("dtype", "") != "float32") return {};
    const std::string bytes = decode_base64(attention.value("data", ""));
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    return values;
}

std::string long_text(int n_sentences) {
    std::string text;
    for (int i = 0; i < n_sentences; ++i) {
        text += "In year " + std::to_string(1900 + i) + " the river rose by " + std::to_string(i * 37 % 91) + " cm. ";
    }
    return text;
}

} // namespace attnscope::test
