#include "server/front/ollama_program.h"

#include "base/bounded_json.h"

#include <filesystem>
#include <sstream>

namespace attnscope::server {

namespace {

Json json_of(const std::string& text) {
    return base::json_depth_is_bounded(text) ? Json::parse(text, nullptr, false) : Json(Json::value_t::discarded);
}

// The program's words where it has some: {"error": "..."}, or OpenAI's.
Error told(const Error& error) {
    const Json body = json_of(error.message);
    const Json why = body.is_object() ? body.value("error", Json()) : Json();
    const Json message = why.is_object() ? why.value("message", Json()) : why;
    if (!message.is_string()) return {error.kind, "the program refused: " + error.message.substr(0, 512)};
    const std::string text = message.get<std::string>().substr(0, 2048);
    return {text.find("not found") == std::string::npos ? error.kind : ErrorKind::not_found, text};
}

const char* path_of(OllamaRoute route) {
    switch (route) {
    case OllamaRoute::openai_chat: return "/v1/chat/completions";
    case OllamaRoute::chat: return "/api/chat";
    case OllamaRoute::openai_completion: // tells nothing of what it makes of a text, which is what its own route makes
    case OllamaRoute::generate: break;
    }
    return "/api/generate";
}

} // namespace

bool OllamaProgram::is_there() const {
    const Result<std::string> said = ask(to_, "GET", "/", headers_, {}, gone_);
    return said && *said == "Ollama is running";
}

Result<Json> OllamaProgram::post(const std::string& path, const OrderedJson& body) const {
    Result<std::string> answer =
        ask(to_, "POST", path, headers_, body.dump(-1, ' ', false, OrderedJson::error_handler_t::replace), gone_);
    if (!answer && (answer.error().kind == ErrorKind::io || answer.error().message.find('{') == std::string::npos))
        return answer.error();
    if (!answer) return told(answer.error());
    Json out = json_of(*answer);
    if (!out.is_object()) return Error{ErrorKind::engine, "the program answered what is no JSON object"};
    return out;
}

Result<std::string> OllamaProgram::model_file(const OrderedJson& body) const {
    if (!body.contains("model") || !body["model"].is_string())
        return Error{ErrorKind::invalid_argument, "\"model\" must be a text"};
    Result<Json> shown = post("/api/show", {{"model", body["model"]}});
    if (!shown) return shown.error();
    const Json written = shown->value("modelfile", Json());
    std::istringstream lines(written.is_string() ? written.get<std::string>() : std::string());
    for (std::string line; std::getline(lines, line);) { // a projector's comes behind it
        if (line.rfind("FROM /", 0) == 0) return std::filesystem::path(line.substr(5)).filename().string();
    }
    return Error{ErrorKind::unsupported, "this model is not run from a file on this machine: it has no attention"};
}

Result<std::string> OllamaProgram::prompt(OllamaRoute route, const OrderedJson& body) const {
    OrderedJson asked = body;
    if (route == OllamaRoute::openai_completion) {
        asked = OrderedJson::object();
        for (const char* name : {"model", "prompt", "suffix"}) {
            if (body.contains(name)) asked[name] = body[name];
        }
    }
    // Of how long it stays loaded the request itself tells: it comes next, and would have it loaded again.
    for (const char* name : {"stream_options", "keep_alive"}) asked.erase(name);
    asked["stream"] = false;
    asked["_debug_render_only"] = true;
    Result<Json> answer = post(path_of(route), asked);
    if (!answer) return answer.error();
    const Json info = answer->value("_debug_info", Json());
    const Json text = info.is_object() ? info.value("rendered_template", Json()) : Json();
    if (!text.is_string() || text.get_ref<const std::string&>().empty())
        return Error{ErrorKind::unsupported, "the program tells no prompt of this request: it has no attention"};
    if (info.value("image_count", Json(0)) != Json(0))
        return Error{ErrorKind::invalid_argument,
                     "a prompt with pictures or sounds has no attention: what they become is not captured"};
    return text.get<std::string>();
}

} // namespace attnscope::server
