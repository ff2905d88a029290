// token_00000.json: {..., "attention": {"shape": [L, H, n], "context_length": n, "data": [...]}}. A token can
// be tens of MB of text, so it is not made into a tree: events fill one vector.
#include "formats/importers.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>

namespace attnscope::formats {

namespace {

class TokenEvents final : public nlohmann::json_sax<nlohmann::json> {
public:
    TokenEvents(std::vector<float>& values, DumpToken& token) : values_(values), token_(token) {}
    std::vector<int64_t> shape;
    std::string problem;

    // null is what JavaScript's JSON.stringify makes of NaN and infinities
    bool null() override { return number(std::numeric_limits<double>::quiet_NaN(), false, 0); }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t value) override { return number(static_cast<double>(value), true, value); }
    bool number_unsigned(number_unsigned_t value) override {
        const bool fits = value <= static_cast<uint64_t>(INT64_MAX);
        return number(static_cast<double>(value), fits, fits ? static_cast<int64_t>(value) : 0);
    }
    bool number_float(number_float_t value, const string_t&) override { return number(value, false, 0); }
    bool string(string_t& value) override {
        if (depth_ == 1 && key_ == "text") token_.text = value.substr(0, 4096);
        if (in_attention() && key_ == "kept_as") token_.kept_as = value.substr(0, 4096);
        return true;
    }
    bool binary(binary_t&) override { return true; }
    bool start_object(std::size_t) override { return enter(false); }
    bool end_object() override { return leave(); }
    bool start_array(std::size_t) override { return enter(true); }
    bool end_array() override { return leave(); }
    bool key(string_t& value) override {
        key_ = value;
        if (depth_ == 1) top_ = value;
        return true;
    }
    bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
        problem = "is not valid JSON at byte " + std::to_string(position);
        return false;
    }

private:
    bool in_attention() const { return depth_ == 2 && top_ == "attention"; }
    bool enter(bool array) {
        if (++depth_ > base::max_json_depth) {
            problem = "nests deeper than " + std::to_string(base::max_json_depth) + " levels";
            return false;
        }
        if (array && depth_ == 3 && top_ == "attention") {
            array_ = key_ == "data" ? Array::data : key_ == "shape" ? Array::shape : Array::other;
        }
        return true;
    }
    bool leave() {
        if (--depth_ < 3) array_ = Array::other;
        return true;
    }
    bool number(double value, bool whole, int64_t integer) {
        if (array_ == Array::data) {
            if (static_cast<int64_t>(values_.size()) >= max_token_elements) {
                problem = "holds more numbers than a token may have";
                return false;
            }
            const double most = static_cast<double>(std::numeric_limits<float>::max());
            const float narrowed = value > most    ? std::numeric_limits<float>::infinity()
                                   : value < -most ? -std::numeric_limits<float>::infinity()
                                                   : static_cast<float>(value);
            values_.push_back(narrowed);
        } else if (array_ == Array::shape) {
            if (!whole || shape.size() >= 8) {
                problem = "has a shape that is none";
                return false;
            }
            shape.push_back(integer);
        } else if (in_attention() && key_ == "context_length" && whole) {
            token_.stated_context = integer >= 0 ? integer : -1;
        } else if (depth_ == 1 && key_ == "token_id" && whole && integer >= 0 && integer <= INT32_MAX) {
            token_.token_id = static_cast<int32_t>(integer);
        }
        return true;
    }

    enum class Array { other, shape, data };
    std::vector<float>& values_;
    DumpToken& token_;
    int depth_ = 0;
    Array array_ = Array::other;
    std::string key_, top_;
};

} // namespace

Result<void> parse_halo_weave_json(const std::string& text, const std::string& name, DumpToken& token,
                                   std::vector<float>& values) {
    values.clear();
    TokenEvents events(values, token);
    if (!nlohmann::json::sax_parse(text, &events)) {
        return Error{ErrorKind::damaged, name + " " + (events.problem.empty() ? "is not valid JSON" : events.problem)};
    }
    if (events.shape.empty()) return Error{ErrorKind::damaged, name + " states no attention shape"};
    const auto shape = token_shape(events.shape);
    const auto elements = shape.empty() ? std::nullopt : base::shape_elements(shape, max_token_elements);
    if (!elements || shape[0] > INT32_MAX || shape[1] > INT32_MAX) {
        return Error{ErrorKind::damaged, name + " states the shape " + base::shape_text(events.shape) +
                                             ", which is not [layers, heads, context]"};
    }
    if (static_cast<int64_t>(values.size()) != *elements) {
        return Error{ErrorKind::damaged, name + " holds " + std::to_string(values.size()) + " numbers; its shape " +
                                             base::shape_text(events.shape) + " needs " + std::to_string(*elements)};
    }
    token.n_layer = static_cast<int32_t>(shape[0]);
    token.n_head = static_cast<int32_t>(shape[1]);
    token.n_context = shape[2];
    return {};
}

} // namespace attnscope::formats
