// What Halo Weave asks of a server beside its stream, answered in front of llama-server, which knows none of it.
#include "server/dialects/halo_weave.h"
#include "server/dialects/tokenizer.h"
#include "server/front/kobold_front.h"
#include "server/front/llama_program.h"
#include "server/http/reply.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <utility>

namespace attnscope::server {

namespace {

constexpr Dialect kobold = Dialect::kobold;
constexpr size_t most_tokens = size_t(1) << 22;

LlamaProgram program_of(const FrontService& service, const httplib::Request& request) {
    return {service.options.to, headers_for_questions(request), gone_away(request, service)};
}

void failed(const httplib::Request& request, httplib::Response& response, const Error& error) {
    if (error.kind == ErrorKind::not_found || error.kind == ErrorKind::io)
        return refuse_unreached(response, request, error);
    refuse(response, kobold, error);
}

Json number_or(const Json& object, const char* name, Json otherwise) {
    return object.is_object() && object.contains(name) && object[name].is_number() ? object[name] : otherwise;
}

// llama-server that was given no --alias names its model by the whole path of its file.
std::string without_folders(const std::string& name) {
    const bool is_path = name.starts_with('/') || name.ends_with(".gguf");
    const std::string file = std::filesystem::path(name).filename().string();
    return is_path && !file.empty() ? file : name;
}

void model(FrontService& service, const httplib::Request& request, httplib::Response& response) {
    if (kobold_of(service, request).is_there()) return model_of_kobold(service, request, response);
    const LlamaProgram program = program_of(service, request);
    const Result<LlamaProps> props = program.props();
    if (!props && props.error().kind == ErrorKind::not_found) return failed(request, response, props.error());
    if (!props) return pass_on(service, request, response);
    Result<Json> models = program.get("/v1/models");
    Json meta;
    std::string name = "model";
    if (models && models->is_object() && models->contains("data") && (*models)["data"].is_array() &&
        !(*models)["data"].empty() && (*models)["data"][0].is_object()) {
        const Json& first = (*models)["data"][0];
        if (first.contains("id") && first["id"].is_string()) name = without_folders(first["id"].get<std::string>());
        if (first.contains("meta")) meta = first["meta"];
    }
    Json out = {{"result", "attnscope/" + name},
                {"model_name", name},
                {"vocab_size", number_or(meta, "n_vocab", 0)},
                {"embedding_size", number_or(meta, "n_embd", 0)},
                {"max_context_length", props->n_ctx},
                {"max_trained_context", number_or(meta, "n_ctx_train", 0)},
                {"bos_token_id", program.special_token(*props, "bos_token")},
                {"eos_token_id", program.special_token(*props, "eos_token")},
                {"eot_token_id", -1},
                {"rope_freq_base", 0},
                {"rope_freq_scale", 0}};
    // What is captured says the rest, once the program has decoded something; before that, its file where it is known.
    const std::optional<Geometry> geometry = service.live.geometry();
    const ModelShape& file = service.options.model;
    const auto heads = [&](int32_t otherwise, auto of) {
        int32_t most = geometry ? 0 : otherwise;
        for (const LayerInfo& layer : geometry ? geometry->layers : std::vector<LayerInfo>())
            most = std::max(most, of(layer));
        return most;
    };
    out["num_layers"] = geometry ? geometry->n_layer() : file.n_layer;
    out["num_attention_heads"] = heads(file.n_head, [](const LayerInfo& l) { return l.n_head; });
    out["num_key_value_heads"] = heads(file.n_head_kv, [](const LayerInfo& l) { return l.n_head_kv; });
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
    std::vector<std::string> texts;
    Result<std::vector<int32_t>> ids = program_of(service, request).tokens_of(text, add_special, &texts);
    if (!ids) return failed(request, response, ids.error());
    Json out = {{"token_ids", *ids}, {"token_count", ids->size()}};
    for (size_t i = 0; pieces && i < ids->size(); ++i) {
        Json& token = out["tokens"].emplace_back(halo_weave_token((*ids)[i], texts[i]));
        if (Json bytes = piece_json(texts[i]); bytes.is_array()) token["bytes"] = std::move(bytes);
    }
    if (pieces && ids->empty()) out["tokens"] = Json::array();
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
}

} // namespace attnscope::server
