#include "engine/chat_template.h"

#include "engine/limited_child.h"

#include <chat.h>
#include <log.h>

#include <stdexcept>

namespace attnscope::engine {

namespace {

// As llama-server reads them (tools/server/server-common.cpp, oaicompat_chat_params_parse).
common_chat_templates_inputs inputs_of(const common_json& body) {
    const auto no = [](const char* what) { return std::invalid_argument(what); };
    common_chat_templates_inputs in;
    in.messages = common_chat_msgs_parse_oaicompat(body.at("messages"));
    if (body.contains("tools") && !body.at("tools").is_null()) {
        in.tools = common_chat_tools_parse_oaicompat(body.at("tools"));
    }
    if (body.contains("tool_choice") && body.at("tool_choice").is_string()) {
        in.tool_choice = common_chat_tool_choice_parse_oaicompat(body.at("tool_choice").get<std::string>());
    }
    if (body.contains("chat_template_kwargs") && !body.at("chat_template_kwargs").is_null()) {
        const common_json& given = body.at("chat_template_kwargs");
        if (!given.is_object()) throw no("\"chat_template_kwargs\" must be an object");
        for (const auto& item : given.items()) in.chat_template_kwargs[item.key()] = item.value().dump();
        if (given.contains("enable_thinking")) {
            if (!given.at("enable_thinking").is_boolean()) throw no("\"enable_thinking\" must be true or false");
            in.enable_thinking = given.at("enable_thinking").get<bool>();
        }
    }
    if (body.contains("reasoning_effort") && body.at("reasoning_effort").is_string()) {
        const std::string effort = body.at("reasoning_effort").get<std::string>();
        if (effort == "none") {
            in.enable_thinking = false;
        } else if (!effort.empty()) {
            in.chat_template_kwargs["reasoning_effort"] = body.at("reasoning_effort").dump();
        }
    }
    if (body.contains("add_generation_prompt") && body.at("add_generation_prompt").is_boolean()) {
        in.add_generation_prompt = body.at("add_generation_prompt").get<bool>();
    }
    if (body.contains("continue_final_message")) {
        in.continue_final_message = common_chat_continuation_parse(body.at("continue_final_message"));
    }
    const size_t n = in.messages.size();
    if (in.continue_final_message == COMMON_CHAT_CONTINUATION_NONE && n > 0 && in.messages[n - 1].role == "assistant" &&
        in.add_generation_prompt) {
        if (n > 1 && in.messages[n - 2].role == "assistant") {
            throw no("the list of messages ends with two of the assistant; one can be continued");
        }
        in.continue_final_message = COMMON_CHAT_CONTINUATION_AUTO;
    }
    if (in.continue_final_message != COMMON_CHAT_CONTINUATION_NONE) {
        in.add_generation_prompt = false;
        if (n > 0 && !in.messages[n - 1].tool_calls.empty()) throw no("a message with tool calls cannot be continued");
    }
    return in;
}

std::string render(const ChatTemplate& t, const std::string& request) {
    common_log_set_verbosity_thold(-1); // or the first word of its log would start a thread
    const common_chat_templates_inputs in = inputs_of(common_json::parse(request));
    const common_chat_templates_ptr templates = common_chat_templates_init(t.model, t.source, t.bos, t.eos);
    return common_chat_templates_apply(templates.get(), in).prompt;
}

} // namespace

Result<std::string> render_chat(const ChatTemplate& t, const std::string& request, const GivenUp& given_up) {
    return run_limited(
        "the chat template", [&] { return render(t, request); }, {}, given_up);
}

} // namespace attnscope::engine
