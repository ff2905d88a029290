#include "server/dialects/answer_form.h"

#include <set>

namespace attnscope::server {

namespace {

constexpr size_t most_grammar = size_t(1) << 20;

// Words that would narrow what a schema allows and that the engine's converter does not know.
void find_ignored_words(const OrderedJson& schema, std::set<std::string>& found) {
    static const std::set<std::string> ignored{"not",
                                               "if",
                                               "then",
                                               "else",
                                               "uniqueItems",
                                               "multipleOf",
                                               "patternProperties",
                                               "minProperties",
                                               "propertyNames",
                                               "maxProperties",
                                               "dependentRequired",
                                               "dependentSchemas",
                                               "contains",
                                               "unevaluatedProperties"};
    static const std::set<std::string> values{"enum", "const", "default", "examples", "required"};
    if (schema.is_array()) {
        for (const OrderedJson& one : schema) find_ignored_words(one, found);
    }
    if (!schema.is_object()) return;
    for (const auto& [key, value] : schema.items()) {
        const bool names = key == "properties" || key == "$defs" || key == "definitions"; // of which each is a schema
        if (names && value.is_object()) {
            for (const auto& [name, one] : value.items()) find_ignored_words(one, found);
        } else if (ignored.count(key)) {
            found.insert("json_schema." + key);
        } else if (!values.count(key)) {
            find_ignored_words(value, found);
        }
    }
}

} // namespace

Result<AnswerForm> read_answer_form(RequestFields& f, const std::string& text) {
    AnswerForm out;
    const auto bad = [](const std::string& why) { return Error{ErrorKind::invalid_argument, why}; };
    out.grammar = f.text("grammar", "", most_grammar);
    const auto given = [&](const char* key) {
        const Json* value = f.find(key);
        return value && *value != Json("") && *value != Json(false);
    };
    const bool of_schema = given("json_schema"), of_format = given("response_format");
    if (Result<void> r = f.status(); !r) return r.error();
    if (of_schema || of_format) {
        const OrderedJson body = OrderedJson::parse(text, nullptr, false);
        const auto member = [](const OrderedJson& object, const char* key) {
            return object.is_object() && object.contains(key) ? object[key] : OrderedJson();
        };
        if (of_schema) out.schema = member(body, "json_schema");
        const OrderedJson format = member(body, "response_format");
        const OrderedJson type = member(format, "type");
        if (of_format && type == "json_object") {
            out.schema = member(format, "schema");
            if (out.schema.is_null()) out.schema = OrderedJson{{"type", "object"}};
        } else if (of_format && type == "json_schema") {
            out.schema = member(member(format, "json_schema"), "schema");
            if (out.schema.is_null()) out.schema = member(format, "schema"); // llama-server's
            if (out.schema.is_null())
                return bad("\"response_format\" of type json_schema needs \"json_schema\": {\"schema\": {...}}");
        } else if (of_format && type != "text") {
            return bad(
                "\"response_format\" must be an object with \"type\": \"text\", \"json_object\" or \"json_schema\"");
        }
        const bool two = of_schema && of_format && type != "text";
        if (two || (!out.schema.is_null() && !out.grammar.empty()))
            return bad("one of \"grammar\", \"json_schema\" and \"response_format\" can be given, not several");
        if (!out.schema.is_null() && !out.schema.is_object()) return bad("a JSON schema must be an object");
    }
    std::set<std::string> ignored;
    find_ignored_words(out.schema, ignored);
    out.ignored.assign(ignored.begin(), ignored.end());
    return out;
}

} // namespace attnscope::server
