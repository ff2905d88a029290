#include "server/front/kobold_program.h"

#include "base/bounded_json.h"

#include <limits>

namespace attnscope::server {

namespace {

Result<Json> parsed(Result<std::string> text) {
    if (!text) return text.error();
    Json body = base::json_depth_is_bounded(*text) ? Json::parse(*text, nullptr, false) : Json();
    if (!body.is_object()) return Error{ErrorKind::engine, "the program answered what is no JSON object"};
    return body;
}

} // namespace

Result<Json> KoboldProgram::get(const std::string& path) const {
    return parsed(ask(to_, "GET", path, headers_, {}, gone_));
}

Result<Json> KoboldProgram::post(const std::string& path, const Json& body) const {
    Result<Json> answer = parsed(ask(to_, "POST", path, headers_, json_text(body), gone_));
    // whoever sends less is answered
    if (!answer && answer.error().kind == ErrorKind::unsupported)
        return Error{ErrorKind::invalid_argument, answer.error().message};
    return answer;
}

bool KoboldProgram::is_there() const {
    const Result<Json> version = get("/api/extra/version");
    if (!version || !version->contains("result") || !(*version)["result"].is_string()) return false;
    return (*version)["result"].get_ref<const std::string&>().rfind("KoboldCpp", 0) == 0;
}

Result<std::vector<int32_t>> KoboldProgram::tokens(const std::string& text, bool special) const {
    Result<Json> answer = post("/api/extra/tokencount", {{"prompt", text}, {"special", special}});
    if (!answer) return answer.error();
    std::vector<int32_t> out;
    if (!answer->contains("ids") || !(*answer)["ids"].is_array())
        return Error{ErrorKind::engine, "the program tells no tokens of a text"};
    for (const Json& token : (*answer)["ids"]) {
        const auto id = base::json_whole(token);
        if (!id || *id < 0 || *id > std::numeric_limits<int32_t>::max())
            return Error{ErrorKind::engine, "the program's tokens are no numbers"};
        out.push_back(static_cast<int32_t>(*id));
    }
    return out;
}

Result<std::string> KoboldProgram::text(const std::vector<int32_t>& tokens) const {
    Result<Json> answer = post("/api/extra/detokenize", {{"ids", tokens}});
    if (!answer) return answer.error();
    if (!answer->contains("result") || !(*answer)["result"].is_string())
        return Error{ErrorKind::engine, "the program tells no text of tokens"};
    return (*answer)["result"].get<std::string>();
}

} // namespace attnscope::server
