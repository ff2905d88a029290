// What an answer may be: a grammar, or a JSON schema in one of the three places where clients put it.
#pragma once

#include "server/http/request_fields.h"

#include <attnscope/error.h>

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace attnscope::server {

using OrderedJson = nlohmann::ordered_json; // schemas, and what goes through us, keep the order of their members

struct AnswerForm {
    std::string grammar;              // GBNF; empty: none
    OrderedJson schema;               // an object; null: none
    std::vector<std::string> ignored; // words of the schema that the engine's converter passes over
};
// `grammar`, `json_schema`, `response_format`; at most one of them. `text`: the body as it came.
Result<AnswerForm> read_answer_form(RequestFields& f, const std::string& text);

} // namespace attnscope::server
