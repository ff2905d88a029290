// What Halo Weave asks of a server: the model's shape, tokens with their texts, and streams whose tokens are objects with
// attention beside them. Its stream shares KoboldCPP's path; kobold.cpp decides between the two.
#include "server/dialects/halo_weave.h"

#include "server/dialects/tokenizer.h"
#include "server/http/reply.h"

namespace attnscope::server {

namespace {

// {"name": value, ...} with `attention` spliced in as text.
std::string event_with(Json body, const std::string& attention) {
    std::string text = json_text(body);
    text.pop_back();
    return "event: message\ndata: " + text + ",\"attention\":" + attention + "}\n\n";
}

} // namespace

Json halo_weave_token(int32_t token, const std::string& text) {
    return {{"token_id", token}, {"text", text}};
}

std::string HaloWeaveFormat::token(const GenerationEvent& event, const std::string& attention) {
    Json body = {{"type", "token"}, {"token", halo_weave_token(event.token, event.text)}, {"request_id", id_}};
    if (!event.hidden_state.empty()) body["hidden_state"] = hidden_state_json(event.hidden_state);
    return event_with(std::move(body), attention);
}

std::string HaloWeaveFormat::prompt_row(const GenerationEvent& event, const std::string& attention) {
    return event_with({{"type", "prompt"}, {"token", {{"token_id", event.token}}}, {"request_id", id_}}, attention);
}

std::string HaloWeaveFormat::done(const std::string& text, const Generation& generation) {
    Json body = summary_json(generation);
    body["type"] = "done";
    body["request_id"] = id_;
    if (!text.empty()) body["text"] = text; // what was held back of the last token
    return "event: message\ndata: " + json_text(body) + "\n\n";
}

std::string HaloWeaveFormat::failed(const std::string& message) {
    const Json body = {{"type", "error"}, {"error", message}, {"request_id", id_}};
    return "event: message\ndata: " + json_text(body) + "\n\n";
}

void add_halo_weave(httplib::Server& http, Service& service) {
    http.Get("/api/v1/model", [&service](const httplib::Request&, httplib::Response& response) {
        const ModelInfo& m = service.model;
        reply(response, {{"result", "attnscope/" + m.name},
                         {"model_name", m.name},
                         {"vocab_size", service.session.n_vocab()},
                         {"num_layers", m.n_layer},
                         {"num_attention_heads", m.n_head},
                         {"num_key_value_heads", m.n_head_kv},
                         {"embedding_size", m.n_embd},
                         {"max_context_length", service.session.n_ctx()},
                         {"max_trained_context", m.n_ctx_train},
                         {"bos_token_id", m.bos},
                         {"eos_token_id", m.eos},
                         {"eot_token_id", m.eot},
                         {"rope_freq_base", static_cast<double>(m.rope_freq_base)},
                         {"rope_freq_scale", static_cast<double>(m.rope_freq_scale)}});
    });
    http.Post("/api/v1/tokenize", [&service](const httplib::Request& request, httplib::Response& response) {
        Result<Json> body = parse_body(request.body);
        if (!body) return refuse(response, Dialect::kobold, body.error());
        RequestFields f(*body);
        const std::string text = f.text("text", "", max_text);
        const bool add_special = f.flag("add_special_tokens", true);
        const bool pieces = f.flag("with_pieces", true);
        if (Result<void> r = f.status(); !r) return refuse(response, Dialect::kobold, r.error());
        name_ignored(response, unread_fields(*body, f.known()));
        Result<std::vector<int32_t>> ids = tokenize_text(service, text, add_special, true);
        if (!ids) return refuse(response, Dialect::kobold, ids.error());
        Json out = {{"token_ids", *ids}, {"token_count", ids->size()}};
        if (pieces) {
            Json& tokens = out["tokens"] = Json::array();
            for (const int32_t id : *ids) {
                const std::string piece = service.session.piece(id);
                tokens.push_back(halo_weave_token(id, piece));
                if (Json bytes = piece_json(piece); bytes.is_array()) tokens.back()["bytes"] = std::move(bytes);
            }
        }
        reply(response, out);
    });
    http.Post("/api/v1/detokenize", [&service](const httplib::Request& request, httplib::Response& response) {
        Result<Json> body = parse_body(request.body);
        if (!body) return refuse(response, Dialect::kobold, body.error());
        RequestFields f(*body);
        const auto ids = f.token_ids("token_ids", service.session.n_vocab(), size_t(1) << 22);
        if (Result<void> r = f.status(); !r) return refuse(response, Dialect::kobold, r.error());
        name_ignored(response, unread_fields(*body, f.known()));
        reply(response, {{"text", ids ? text_of(service.session, *ids) : ""}});
    });
}

} // namespace attnscope::server
