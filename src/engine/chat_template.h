// A model's own chat template, rendered by the engine's Jinja as llama-server renders it.
#pragma once

#include <attnscope/error.h>
#include <attnscope/session.h>

#include <llama.h>

#include <string>

namespace attnscope::engine {

struct ChatTemplate {
    const llama_model* model = nullptr; // its template and tokens; null: those below
    std::string source, bos, eos;
};

// `request`: a JSON object as POST /v1/chat/completions takes it; of its fields messages, tools, tool_choice,
// chat_template_kwargs, reasoning_effort, add_generation_prompt and continue_final_message are read. A last message of the
// assistant is continued. A model without a template gets ChatML. A template is a program of whoever made the model: it runs in
// a process of its own with limits (limited_child.h).
Result<std::string> render_chat(const ChatTemplate& chat_template, const std::string& request,
                                const GivenUp& given_up = {});

} // namespace attnscope::engine
