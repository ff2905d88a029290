// What Halo Weave asks of a server, answered in front of llama-server, which knows none of it: its stream becomes a completion of
// llama-server's own.
#include "base/bounded_json.h"
#include "server/dialects/halo_weave.h"
#include "server/dialects/tokenizer.h"
#include "server/front/event_reader.h"
#include "server/front/kobold_front.h"
#include "server/front/llama_start.h"
#include "server/http/reply.h"

#include <algorithm>
#include <array>
#include <utility>

namespace attnscope::server {

namespace {

constexpr Dialect kobold = Dialect::kobold;
constexpr size_t most_tokens = size_t(1) << 22;
constexpr int64_t most_an_event = 1 << 10; // more of them in one event are not believed

// llama-server's completion, event by event, in Halo Weave's words.
class HaloWeaveStream {
public:
    HaloWeaveStream(std::unique_ptr<RequestRows> rows, std::string id) : rows_(std::move(rows)), id_(std::move(id)) {}
    EventReader events;

    std::string event(const ServerEvent& event) {
        const Json body = base::json_depth_is_bounded(event.data) ? Json::parse(event.data, nullptr, false) : Json();
        if (!body.is_object()) return {};
        if (body.contains("error")) {
            const Json& error = body["error"];
            const bool worded = error.is_object() && error.contains("message") && error["message"].is_string();
            return halo_weave_event(
                {{"type", "error"}, {"error", worded ? error["message"] : error}, {"request_id", id_}}, "");
        }
        const bool last = body.contains("stop") && body["stop"] == true;
        const int64_t n =
            body.contains("tokens_predicted") ? base::json_whole(body["tokens_predicted"]).value_or(-1) : -1;
        const std::string text = body.contains("content") && body["content"].is_string()
                                     ? body["content"].get<std::string>()
                                     : std::string();
        std::string out;
        if (n - rows_->n_told() <= most_an_event) out = tokens(n, body, last ? "" : text, last);
        if (last) out += done(body, text);
        return out;
    }

private:
    struct Told {
        std::optional<int32_t> token;
        std::string text, attention;
    };
    std::string tokens(int64_t n, const Json& body, const std::string& text, bool last) {
        std::optional<int32_t> newest;
        if (const auto at = body.find("tokens"); !last && at != body.end() && at->is_array() && at->size() == 1) {
            const auto id = base::json_whole((*at)[0]);
            if (id && *id >= 0 && *id <= INT32_MAX) newest = static_cast<int32_t>(*id);
        }
        std::vector<Told> told;
        std::string out;
        while (rows_->n_told() < n) {
            const bool its_own = rows_->n_told() == n - 1;
            std::string row = rows_->next(its_own ? newest : std::nullopt);
            if (!told.empty() && !told.back().token) told.back().token = rows_->query_token();
            told.push_back({its_own ? newest : std::nullopt, its_own ? text : "", std::move(row)});
            for (const RequestRows::PromptRow& p : rows_->take_prompt_rows()) {
                out += halo_weave_event({{"type", "prompt"}, {"token", {{"token_id", p.token}}}, {"request_id", id_}},
                                        p.attention);
            }
        }
        for (const Told& t : told) {
            Json token = halo_weave_token(t.token.value_or(-1), t.text);
            out += halo_weave_event({{"type", "token"}, {"token", std::move(token)}, {"request_id", id_}}, t.attention);
        }
        return out;
    }
    std::string done(const Json& body, const std::string& text) {
        const std::string type = body.contains("stop_type") && body["stop_type"].is_string()
                                     ? body["stop_type"].get<std::string>()
                                     : std::string();
        Json out = {{"type", "done"},
                    {"finish_reason", type == "limit" ? "length" : "stop"},
                    {"total_tokens", rows_->n_told()},
                    {"reused", rows_->n_reused()},
                    {"request_id", id_}};
        if (body.contains("tokens_evaluated")) out["prompt_tokens"] = body["tokens_evaluated"];
        if (!text.empty()) out["text"] = text;
        std::string event = json_text(out);
        if (const std::string scores = rows_->scores(); !scores.empty())
            event = with_members(event, "\"scores\":" + scores);
        return "event: message\ndata: " + event + "\n\n";
    }

    const std::unique_ptr<RequestRows> rows_;
    const std::string id_;
};

// KoboldCPP's fields as llama-server's, with KoboldCPP's defaults.
OrderedJson completion_body(RequestFields& f) {
    constexpr int64_t most = INT32_MAX;
    OrderedJson out;
    out["n_predict"] = f.integer("max_length", 180, 0, most);
    out["temperature"] = f.number("temperature", 0.7, 0, 100);
    out["top_k"] = f.integer("top_k", 100, -1, most);
    out["top_p"] = f.number("top_p", 0.92, 0, 1);
    out["min_p"] = f.number("min_p", 0, 0, 1);
    out["typical_p"] = f.number("typical", 1, 0, 1);
    out["repeat_penalty"] = f.number("rep_pen", 1, 0.01, 100);
    out["repeat_last_n"] = f.integer("rep_pen_range", 320, 0, most);
    out["presence_penalty"] = f.number("presence_penalty", 0, -100, 100);
    out["seed"] = f.integer("sampler_seed", -1, -1, int64_t(UINT32_MAX));
    out["stop"] = f.texts("stop_sequence", 64, 4096);
    out["ignore_eos"] = f.flag("ban_eos_token", false);
    if (const std::string grammar = f.text("grammar", "", size_t(1) << 20); !grammar.empty()) out["grammar"] = grammar;
    for (const char* same : {"mirostat", "mirostat_tau", "mirostat_eta", "dynatemp_range", "dynatemp_exponent",
                             "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base", "dry_allowed_length",
                             "dry_penalty_last_n", "json_schema", "cache_prompt"}) {
        if (const Json* value = f.find(same)) out[same] = OrderedJson::parse(value->dump());
    }
    out["stream"] = true;
    out["return_tokens"] = true;
    return out;
}

LlamaProgram program_of(const FrontService& service, const httplib::Request& request) {
    return {service.options.to, headers_for_questions(request), gone_away(request, service)};
}

void failed(const httplib::Request& request, httplib::Response& response, const Error& error) {
    if (error.kind == ErrorKind::not_found || error.kind == ErrorKind::io)
        return refuse_unreached(response, request, error);
    refuse(response, kobold, error);
}

void stream(FrontService& service, const httplib::Request& request, httplib::Response& response) {
    const bool ours = request.body.find("output_attentions") != std::string::npos ||
                      request.body.find("output_hidden_states") != std::string::npos ||
                      request.body.find("\"attention\"") != std::string::npos;
    Result<Json> body = ours ? parse_body(request.body) : Result<Json>(Json());
    if (!body) return refuse(response, kobold, body.error());
    RequestFields f(*body);
    Result<AttentionWants> wants = read_attention_wants(f);
    if (!wants) return refuse(response, kobold, wants.error());
    if (f.flag("output_hidden_states", false))
        return refuse(response, kobold, 501, "hidden states are not captured of a program");
    if (!ours || !wants->attention) return pass_on(service, request, response);
    if (const std::optional<Geometry> geometry = service.live.geometry()) {
        if (Result<void> r = check_request(*wants->attention, *geometry); !r)
            return refuse(response, kobold, r.error());
    }
    if (!wants->character_spans.empty()) return refuse(response, kobold, 400, "\"attention.spans\": give columns here");
    if (kobold_of(service, request).is_there())
        return stream_from_kobold(service, request, response, *body, std::move(*wants));
    OrderedJson to_program = completion_body(f);
    const auto ids = f.token_ids("input_ids", INT32_MAX, most_tokens);
    const std::string text = f.text("memory", "", max_text) + f.text("prompt", "", max_text);
    const std::string id = f.text("request_id", f.text("genkey", "", 256), 256);
    if (ids && ids->empty()) f.fail("\"input_ids\" must not be empty");
    if (Result<void> r = f.status(); !r) return refuse(response, kobold, r.error());
    name_ignored(response, unread_fields(*body, f.known()));
    const GoneAway gone = gone_away(request, service);
    const LlamaProgram program = program_of(service, request);
    Result<std::vector<int32_t>> prompt = ids ? Result<std::vector<int32_t>>(*ids) : program.tokens(text);
    if (!prompt) return failed(request, response, prompt.error());
    to_program["prompt"] = *prompt;
    httplib::Request sent = request_to_program(request);
    sent.path = "/completion";
    sent.headers.erase("Content-Type");
    sent.set_header("Content-Type", "application/json");
    Result<LlamaStarted> started = start_llama(service, program, std::move(sent), std::move(to_program),
                                               {std::move(*prompt), std::move(*wants), true}, gone);
    if (!started) return failed(request, response, started.error());
    if (started->head.status != 200) {
        Result<std::string> why = started->upstream->read_all(size_t(1) << 20, gone);
        return refuse(response, kobold, started->head.status == 503 ? 503 : 400, why ? *why : why.error().message);
    }
    const auto told = std::make_shared<HaloWeaveStream>(std::move(started->rows), id);
    const auto send = [upstream = started->upstream, told, gone](size_t, httplib::DataSink& sink) {
        Result<std::string> some = upstream->read(gone);
        if (!some || !told->events.add(*some)) return false;
        while (const std::optional<ServerEvent> event = told->events.next()) {
            const std::string out = told->event(*event);
            if (!out.empty() && !sink.write(out.data(), out.size())) return false;
        }
        if (some->empty()) sink.done();
        return true;
    };
    response.set_header("Cache-Control", "no-cache");
    response.set_header("X-Accel-Buffering", "no");
    response.set_chunked_content_provider("text/event-stream", send);
}

Json number_or(const Json& object, const char* name, Json otherwise) {
    return object.is_object() && object.contains(name) && object[name].is_number() ? object[name] : otherwise;
}

// The id of a special token that the program tells as text; -1: none.
int32_t special_token(const LlamaProgram& program, const Json& props, const char* name) {
    if (!props.contains(name) || !props[name].is_string() || props[name].get_ref<const std::string&>().empty())
        return -1;
    const OrderedJson body = {
        {"content", props[name].get<std::string>()}, {"add_special", false}, {"parse_special", true}};
    const Result<Json> answer =
        program.post("/tokenize", body.dump(-1, ' ', false, OrderedJson::error_handler_t::replace));
    if (!answer || !answer->is_object() || !answer->contains("tokens") || (*answer)["tokens"].size() != 1) return -1;
    const auto id = base::json_whole((*answer)["tokens"][0]);
    return id && *id >= 0 && *id <= INT32_MAX ? static_cast<int32_t>(*id) : -1;
}

void model(FrontService& service, const httplib::Request& request, httplib::Response& response) {
    if (kobold_of(service, request).is_there()) return model_of_kobold(service, request, response);
    const LlamaProgram program = program_of(service, request);
    Result<Json> props = program.get("/props");
    if (!props || !props->is_object() || !props->contains("total_slots")) return pass_on(service, request, response);
    Result<Json> models = program.get("/v1/models");
    Json meta, name = "model";
    if (models && models->is_object() && models->contains("data") && (*models)["data"].is_array() &&
        !(*models)["data"].empty() && (*models)["data"][0].is_object()) {
        const Json& first = (*models)["data"][0];
        if (first.contains("id") && first["id"].is_string()) name = first["id"];
        if (first.contains("meta")) meta = first["meta"];
    }
    const Json settings = props->value("default_generation_settings", Json::object());
    Json out = {{"result", "attnscope/" + name.get<std::string>()},
                {"model_name", name},
                {"vocab_size", number_or(meta, "n_vocab", 0)},
                {"embedding_size", number_or(meta, "n_embd", 0)},
                {"max_context_length", number_or(settings, "n_ctx", 0)},
                {"max_trained_context", number_or(meta, "n_ctx_train", 0)},
                {"bos_token_id", special_token(program, *props, "bos_token")},
                {"eos_token_id", special_token(program, *props, "eos_token")},
                {"eot_token_id", -1},
                {"rope_freq_base", 0},
                {"rope_freq_scale", 0}};
    // What is captured says the rest, once the program has decoded something.
    const std::optional<Geometry> geometry = service.live.geometry();
    const auto heads = [&](auto of) {
        int32_t most = 0;
        for (const LayerInfo& layer : geometry ? geometry->layers : std::vector<LayerInfo>())
            most = std::max(most, of(layer));
        return most;
    };
    out["num_layers"] = geometry ? geometry->n_layer() : 0;
    out["num_attention_heads"] = heads([](const LayerInfo& l) { return l.n_head; });
    out["num_key_value_heads"] = heads([](const LayerInfo& l) { return l.n_head_kv; });
    reply(response, out);
}

void tokenize(FrontService& service, const httplib::Request& request, httplib::Response& response) {
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, kobold, body.error());
    RequestFields f(*body);
    const std::string text = f.text("text", "", max_text);
    const bool add_special = f.flag("add_special_tokens", true);
    const bool pieces = f.flag("with_pieces", true);
    if (Result<void> r = f.status(); !r) return refuse(response, kobold, r.error());
    name_ignored(response, unread_fields(*body, f.known()));
    if (kobold_of(service, request).is_there())
        return tokenize_by_kobold(service, request, response, text, add_special, pieces);
    const Json asked = {
        {"content", text}, {"add_special", add_special}, {"parse_special", true}, {"with_pieces", true}};
    Result<Json> answer = program_of(service, request).post("/tokenize", json_text(asked));
    if (!answer) return failed(request, response, answer.error());
    Json ids = Json::array(), tokens = Json::array();
    if (answer->is_object() && answer->contains("tokens") && (*answer)["tokens"].is_array()) {
        for (const Json& token : (*answer)["tokens"]) {
            if (!token.is_object() || !token.contains("id") || !token.contains("piece")) continue;
            ids.push_back(token["id"]);
            Json told = {{"token_id", token["id"]}, {"text", token["piece"]}};
            if (token["piece"].is_array()) { // part of a character: its bytes
                told["bytes"] = token["piece"];
                told["text"] = "\xEF\xBF\xBD";
            }
            tokens.push_back(std::move(told));
        }
    }
    Json out = {{"token_ids", ids}, {"token_count", ids.size()}};
    if (pieces) out["tokens"] = tokens;
    reply(response, out);
}

void detokenize(FrontService& service, const httplib::Request& request, httplib::Response& response) {
    Result<Json> body = parse_body(request.body);
    if (!body) return refuse(response, kobold, body.error());
    RequestFields f(*body);
    const auto ids = f.token_ids("token_ids", INT32_MAX, most_tokens);
    if (Result<void> r = f.status(); !r) return refuse(response, kobold, r.error());
    if (!ids || ids->empty()) return reply(response, {{"text", ""}});
    const KoboldProgram other = kobold_of(service, request);
    Result<std::string> text = other.is_there() ? other.text(*ids) : program_of(service, request).text(*ids);
    if (!text) return failed(request, response, text.error());
    reply(response, {{"text", *text}});
}

} // namespace

void add_halo_weave_front(httplib::Server& http, FrontService& service) {
    using httplib::Request, httplib::Response;
    http.Get("/api/v1/model", [&](const Request& q, Response& a) { model(service, q, a); });
    http.Post("/api/v1/tokenize", [&](const Request& q, Response& a) { tokenize(service, q, a); });
    http.Post("/api/v1/detokenize", [&](const Request& q, Response& a) { detokenize(service, q, a); });
    http.Post("/api/extra/generate/stream", [&](const Request& q, Response& a) { stream(service, q, a); });
}

} // namespace attnscope::server
