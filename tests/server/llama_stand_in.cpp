#include "llama_stand_in.h"

#include <attnscope/attention_request.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace attnscope::test {

using namespace attnscope::server;

namespace {

void say(httplib::Response& a, const Json& body) {
    a.set_content(body.dump(), "application/json");
}

std::string event_of(const Json& body) {
    return "data: " + body.dump() + "\n\n";
}

std::string chat_prompt(const Json& body) {
    return "<" + body["messages"][0]["content"].get<std::string>() + ">";
}

Json chunk(const Json& delta, const Json& reason) {
    return {{"choices", {{{"delta", delta}, {"finish_reason", reason}}}},
            {"id", "chat"},
            {"object", "chat.completion.chunk"}};
}

} // namespace

LlamaStandIn::LlamaStandIn(LiveSequences& live) : live_(live) {
    live_.context_begins(context, LiveModel({}, 0).geometry(),
                         [](int32_t t) { return std::string(1, static_cast<char>(t)); });
    http_.Get("/slots", [](const auto&, auto& a) {
        say(a, Json::array({{{"id", 0}, {"is_processing", true}}, {{"id", 1}, {"is_processing", false}}}));
    });
    http_.Get("/props", [](const auto&, auto& a) {
        say(a, {{"total_slots", 2}, {"default_generation_settings", {{"n_ctx", int(n_ctx)}}}, {"bos_token", "a"}});
    });
    http_.Post("/tokenize", [this](const httplib::Request& q, httplib::Response& a) { tokenize(q, a); });
    http_.Get("/v1/models", [this](const auto&, auto& a) {
        if (vocab_type == 0) return say(a, {{"data", Json::array()}});
        say(a, {{"data", {{{"id", model_id}, {"meta", {{"vocab_type", int(vocab_type)}, {"n_vocab", 256}}}}}}});
    });
    http_.Post("/detokenize", [](const httplib::Request& q, httplib::Response& a) {
        const Json body = Json::parse(q.body);
        std::string text;
        for (const Json& token : body["tokens"]) text += static_cast<char>(token.get<int>());
        say(a, {{"content", text}});
    });
    http_.Post("/apply-template", [](const httplib::Request& q, httplib::Response& a) {
        say(a, {{"prompt", chat_prompt(Json::parse(q.body))}});
    });
    http_.Post("/completion", [this](const httplib::Request& q, httplib::Response& a) { completion(q, a); });
    http_.Post("/v1/chat/completions", [this](const httplib::Request& q, httplib::Response& a) { chat(q, a); });
    port = http_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { http_.listen_after_bind(); });
    reader_ = std::thread([this] {
        while (!done_) live_.all_taken(std::chrono::milliseconds(1));
    });
    http_.wait_until_ready();
}

LlamaStandIn::~LlamaStandIn() {
    http_.stop();
    thread_.join();
    done_ = true;
    reader_.join();
}

Json LlamaStandIn::last_body() const {
    const std::lock_guard lock(mutex_);
    return last_;
}

std::vector<float> LlamaStandIn::rows(size_t index) const {
    const std::lock_guard lock(mutex_);
    return index < rows_.size() ? rows_[index] : std::vector<float>();
}

void LlamaStandIn::decode(Line& line, int32_t token) {
    Frame frame = line.model.next();
    frame.sequence = line.number;
    frame.token = token;
    {
        const std::lock_guard lock(mutex_);
        rows_.push_back(line.model.rows(frame));
    }
    live_.frame(context, line.slot, frame);
}

// A token is a byte.
void LlamaStandIn::tokenize(const httplib::Request& q, httplib::Response& a) {
    if (tells_too_much) return a.set_content(std::string((64 << 20) + 1, ' '), "application/json");
    const Json body = Json::parse(q.body);
    Json tokens = Json::array();
    const bool pieces = body.value("with_pieces", false);
    const auto add = [&](int id) {
        Json piece = id < 128 ? Json(std::string(1, static_cast<char>(id))) : Json({id});
        if (id == 'q' && lacks_a_letter) piece = "";
        if (id == 'Q' && long_piece > 0) piece = std::string(long_piece, 'Q');
        tokens.push_back(pieces ? Json{{"id", id}, {"piece", piece}} : Json(id));
    };
    for (const Json& part : body["content"].is_array() ? body["content"] : Json::array({body["content"]})) {
        if (!part.is_string()) {
            add(part.get<int>());
            continue;
        }
        const auto& text = part.get_ref<const std::string&>();
        longest_cut = std::max(longest_cut.load(), text.size());
        for (const char c : text) add(static_cast<unsigned char>(c));
    }
    say(a, {{"tokens", tokens}});
}

// Its prompt is decoded.
std::shared_ptr<LlamaStandIn::Line> LlamaStandIn::begin(const Json& body, const Json& prompt) {
    auto line = std::make_shared<Line>(Line{0, -1, {}, LiveModel({}, 0)});
    {
        const std::lock_guard lock(mutex_);
        last_ = body;
        rows_.clear();
        line->number = n_lines_++;
    }
    line->model = LiveModel({}, static_cast<uint32_t>(line->number));
    const int32_t slot = body.value("id_slot", -1);
    line->slot = one_cache ? -1 : wrong_slot ? 1 - slot : slot;
    for (int i = 0; i < body.value("n_predict", body.value("max_tokens", 3)); ++i) line->generated.push_back(1000 + i);
    live_.line_begins({context, line->number}, -1, 0);
    if (records) live_.line_recorded({context, line->number}, RecordedLine{"a_model-1-0.attn", line->number});
    std::vector<int32_t> tokens;
    if (prompt.is_string())
        for (const char c : prompt.get<std::string>()) tokens.push_back(c);
    else
        tokens = prompt.get<std::vector<int32_t>>();
    for (const int32_t token : tokens) decode(*line, token);
    return line;
}

std::string LlamaStandIn::event(const Json& body, const Line& line, size_t i) const {
    Json one = {
        {"index", 0}, {"content", "x"}, {"tokens", {line.generated[i]}}, {"stop", false}, {"tokens_predicted", i + 1}};
    if (body.value("n_probs", 0) > 0) {
        const Json top = {{"id", 7}, {"token", "y"}, {"bytes", {121}}, {"logprob", -3.4028234663852886e38}};
        one["completion_probabilities"] = {
            {{"id", line.generated[i]}, {"token", "x"}, {"bytes", {120}}, {"logprob", -0.5}, {"top_logprobs", {top}}}};
    }
    return event_of(one);
}

std::string LlamaStandIn::last_event(const Json& body, const Line& line) const {
    const Json last = {{"content", ""},
                       {"tokens", body["stream"] == true ? Json::array() : Json(line.generated)},
                       {"stop", true},
                       {"tokens_predicted", line.generated.size()},
                       {"tokens_evaluated", body["prompt"].size()},
                       {"timings", {{"prompt_ms", 500}, {"predicted_ms", 2000}, {"cache_n", 1}}},
                       {"generation_settings", {{"seed", 4711}}},
                       {"stop_type", stopping_word.empty() ? "limit" : "word"},
                       {"stopping_word", stopping_word}};
    return last.dump();
}

void LlamaStandIn::stream(const Json& body, const std::shared_ptr<Line>& line, httplib::Response& a) {
    a.set_chunked_content_provider(
        "text/event-stream",
        [this, body, line, i = size_t(0)](size_t, httplib::DataSink& sink) mutable {
            std::this_thread::sleep_for(std::chrono::milliseconds(pace_ms));
            const bool last = i == line->generated.size();
            const std::string text =
                last ? breaks ? "" : "data: " + last_event(body, *line) + "\n\n" : event(body, *line, i);
            if (!text.empty() && !sink.write(text.data(), text.size())) {
                broke_off = true;
                return false;
            }
            if (last) sink.done();
            if (++i < line->generated.size()) decode(*line, line->generated[i - 1]);
            return true;
        },
        [this](bool whole) { broke_off = broke_off || !whole; });
}

void LlamaStandIn::completion(const httplib::Request& q, httplib::Response& a) {
    const Json body = Json::parse(q.body);
    if (longest_cut > 100'000) { // rows of so many tokens would fill the machine
        a.status = 400;
        return say(a, {{"error", {{"message", "too long"}}}});
    }
    const std::shared_ptr<Line> line = begin(body, body["prompt"]);
    if (body["stream"] == true && pace_ms > 0) return stream(body, line, a);
    // All at once; the last token is never decoded.
    for (size_t i = 0; i + 1 < line->generated.size(); ++i) decode(*line, line->generated[i]);
    if (body["stream"] != true) return a.set_content(last_event(body, *line), "application/json");
    std::string events;
    for (size_t i = 0; i < line->generated.size(); ++i) {
        if (i != skipped_token) events += event(body, *line, i);
    }
    if (!breaks) events += "data: " + last_event(body, *line) + "\n\n";
    a.set_content(events, "text/event-stream");
}

void LlamaStandIn::chat(const httplib::Request& q, httplib::Response& a) {
    const Json body = Json::parse(q.body);
    const std::shared_ptr<Line> line = begin(body, chat_prompt(body));
    for (size_t i = 0; i + 1 < line->generated.size(); ++i) decode(*line, line->generated[i]);
    const size_t n = line->generated.size();
    if (body["stream"] != true) return say(a, {{"choices", Json::array()}, {"usage", {{"completion_tokens", n}}}});
    std::string events = event_of(chunk({{"role", "assistant"}}, nullptr));
    for (size_t i = 0; i < n; ++i) {
        Json one = chunk({{"content", "x"}}, nullptr);
        if (body.value("timings_per_token", false)) one["timings"] = {{"predicted_n", i + 1}};
        events += event_of(one);
    }
    Json last = chunk(Json::object(), "length");
    last["timings"] = {{"predicted_n", n}};
    a.set_content(events + event_of(last) + "data: [DONE]\n\n", "text/event-stream");
}

BeforeLlama::BeforeLlama(const std::function<void(FrontOptions&)>& adjust) {
    FrontOptions options;
    options.server.port = 0;
    options.to.port = program.port;
    options.patience = std::chrono::milliseconds(500);
    if (adjust) adjust(options);
    auto started = Front::start(options, live);
    if (started) front = std::move(*started);
}

std::string BeforeLlama::post(const std::string& path, const Json& body, int status, httplib::Headers* headers) {
    httplib::Client client("127.0.0.1", front->port());
    const auto answer = client.Post(path, body.dump(), "application/json");
    EXPECT_TRUE(answer && answer->status == status) << path << (answer ? answer->body : std::string("no answer"));
    if (answer && headers) *headers = answer->headers;
    return answer ? answer->body : std::string();
}

Json BeforeLlama::get(const std::string& path) {
    httplib::Client client("127.0.0.1", front->port());
    const auto answer = client.Get(path);
    EXPECT_TRUE(answer && answer->status == 200) << path << (answer ? answer->body : std::string("no answer"));
    return answer ? Json::parse(answer->body, nullptr, false) : Json();
}

std::vector<Json> BeforeLlama::events(const std::string& text) {
    std::vector<Json> out;
    for (size_t at = 0; (at = text.find("data: ", at)) != std::string::npos; ++at) {
        const std::string data = text.substr(at + 6, text.find('\n', at) - at - 6);
        if (data != "[DONE]") out.push_back(Json::parse(data));
    }
    return out;
}

std::vector<float> BeforeLlama::decoded(const std::string& base64) {
    std::vector<uint8_t> bytes;
    uint32_t bits = 0;
    int n_bits = 0;
    const std::string letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (const char c : base64) {
        const size_t value = letters.find(c);
        if (value == std::string::npos) break;
        bits = bits << 6 | static_cast<uint32_t>(value);
        if ((n_bits += 6) < 8) continue;
        bytes.push_back(static_cast<uint8_t>(bits >> (n_bits -= 8)));
    }
    return decode_values(bytes, bytes.size() / 4, 1, AttentionFormat::f32).value();
}

void BeforeLlama::expect_row(const Json& attention, size_t index) {
    ASSERT_TRUE(attention.is_object() && attention.contains("data")) << attention.dump();
    EXPECT_EQ(attention["index"], index);
    EXPECT_EQ(decoded(attention["data"]), program.rows(index));
}

bool BeforeLlama::soon(const std::function<bool()>& what) const {
    for (int i = 0; i < 500 && !what(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return what();
}

} // namespace attnscope::test
