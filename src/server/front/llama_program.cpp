#include "server/front/llama_program.h"

#include "base/bounded_json.h"

#include <limits>

namespace attnscope::server {

namespace {

constexpr size_t most_slots = 4096;

Json json_of(const std::string& text) {
    return base::json_depth_is_bounded(text) ? Json::parse(text, nullptr, false) : Json(Json::value_t::discarded);
}

// The program's words where it has some.
Error told(const Error& error) {
    const Json body = json_of(error.message);
    if (!body.is_object() || !body.contains("error"))
        return {error.kind, "the program refused: " + error.message.substr(0, 512)};
    const Json& why = body["error"];
    const std::string message = why.is_object() && why.contains("message") && why["message"].is_string()
                                    ? why["message"].get<std::string>()
                                    : json_text(why);
    return {error.kind, message.substr(0, 2048)};
}

Result<Json> parsed(Result<std::string> text) {
    if (!text)
        return text.error().kind == ErrorKind::invalid_argument || text.error().kind == ErrorKind::engine
                   ? told(text.error())
                   : text.error();
    Json body = json_of(*text);
    if (body.is_discarded()) return Error{ErrorKind::engine, "the program answered what is no JSON"};
    return body;
}

} // namespace

Result<Json> LlamaProgram::get(const std::string& path) const {
    return parsed(ask(to_, "GET", path, headers_, {}, gone_));
}

Result<Json> LlamaProgram::post(const std::string& path, const std::string& body) const {
    return parsed(ask(to_, "POST", path, headers_, body, gone_));
}

Result<std::vector<bool>> LlamaProgram::slots() const {
    Result<Json> slots = get("/slots");
    if (slots && slots->is_array() && !slots->empty() && slots->size() <= most_slots) {
        std::vector<bool> busy;
        for (const Json& slot : *slots)
            busy.push_back(slot.is_object() && slot.value("is_processing", Json()) == Json(true));
        return busy;
    }
    Result<Json> props = get("/props"); // --no-slots
    if (!props) return props.error();
    const auto n =
        props->is_object() && props->contains("total_slots") ? base::json_whole((*props)["total_slots"]) : std::nullopt;
    if (!n || *n < 1 || *n > static_cast<int64_t>(most_slots))
        return Error{ErrorKind::unsupported, "the program behind this server is no llama-server that tells its slots"};
    return std::vector<bool>(static_cast<size_t>(*n), false);
}

Result<std::vector<int32_t>> LlamaProgram::tokens(const OrderedJson& prompt) const {
    const OrderedJson body = {{"content", prompt}, {"add_special", true}, {"parse_special", true}};
    Result<Json> answer = post("/tokenize", body.dump(-1, ' ', false, OrderedJson::error_handler_t::replace));
    if (!answer) return answer.error();
    std::vector<int32_t> out;
    if (answer->is_object() && answer->contains("tokens") && (*answer)["tokens"].is_array()) {
        for (const Json& token : (*answer)["tokens"]) {
            const auto id = base::json_whole(token);
            if (!id || *id < 0 || *id > std::numeric_limits<int32_t>::max())
                return Error{ErrorKind::engine, "the program's tokens are no numbers"};
            out.push_back(static_cast<int32_t>(*id));
        }
    }
    if (out.empty()) return Error{ErrorKind::invalid_argument, "the prompt has no tokens"};
    return out;
}

Result<std::string> LlamaProgram::text(const std::vector<int32_t>& tokens) const {
    Result<Json> answer = post("/detokenize", Json{{"tokens", tokens}}.dump());
    if (!answer) return answer.error();
    if (!answer->is_object() || !answer->contains("content") || !(*answer)["content"].is_string())
        return Error{ErrorKind::engine, "the program tells no text of tokens"};
    return (*answer)["content"].get<std::string>();
}

Result<std::string> LlamaProgram::chat_prompt(const OrderedJson& body) const {
    Result<Json> answer = post("/apply-template", body.dump(-1, ' ', false, OrderedJson::error_handler_t::replace));
    if (!answer) return answer.error();
    if (!answer->is_object() || !answer->contains("prompt") || !(*answer)["prompt"].is_string())
        return Error{ErrorKind::engine, "the program tells no prompt of a chat"};
    return (*answer)["prompt"].get<std::string>();
}

} // namespace attnscope::server
