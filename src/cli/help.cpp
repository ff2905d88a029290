#include "cli/help.h"

#include "cli/lines.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <sstream>

namespace attnscope::cli {

namespace {

std::string in_two_columns(const std::string& left, const std::string& right, size_t column) {
    std::string line = "  " + left;
    if (right.empty()) return line + "\n";
    line += line.size() + 1 > column ? "\n" + std::string(column, ' ') : std::string(column - line.size(), ' ');
    return line + wrapped(right, column) + "\n";
}

// Letters to change, add or take away so that one becomes the other.
size_t distance(const std::string& a, const std::string& b) {
    std::vector<size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), size_t(0));
    for (size_t i = 0; i < a.size(); ++i) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < b.size(); ++j) {
            const size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, changed});
        }
    }
    return row.back();
}

std::string nearest(const std::string& word, const std::vector<std::string>& all) {
    std::string best;
    size_t least = std::max<size_t>(2, word.size() / 3) + 1;
    for (const std::string& one : all) {
        const size_t changes = distance(word, one);
        if (changes >= least) continue;
        least = changes;
        best = one;
    }
    return best;
}

// "--port: Value abc not in range 0 to 65535", in words.
std::string range_in_words(const std::string& sentence) {
    const std::string value = ": Value ", range = " not in range ";
    const size_t v = sentence.find(value), r = sentence.rfind(range);
    if (v == std::string::npos || r == std::string::npos || r < v + value.size()) return sentence;
    std::string numbers = "from " + sentence.substr(r + range.size());
    const std::string no_end = " to " + std::to_string(std::numeric_limits<int32_t>::max());
    if (numbers.ends_with(no_end)) numbers = "of at least " + numbers.substr(5, numbers.size() - 5 - no_end.size());
    return sentence.substr(0, v) + " takes a number " + numbers + ", not " +
           sentence.substr(v + value.size(), r - v - value.size());
}

// What nobody asked for, in the order in which it was given. "--", which stands among that where an option before it is not known, is
// nobody's mistake, unless it is all there is.
std::string unexpected(const CLI::App& app) {
    std::vector<std::string> words = app.remaining(true);
    if (words.size() > 1) words.erase(std::remove(words.begin(), words.end(), "--"), words.end());
    const std::string all = CLI::detail::join(words, " ");
    const CLI::App* at = &app;
    while (!at->get_subcommands().empty()) at = at->get_subcommands().back();
    const std::string meant = words.size() == 1 ? nearest_option(*at, words[0]) : std::string();
    return (words.size() == 1 ? "The following argument was not expected: "
                              : "The following arguments were not expected: ") +
           all + (meant.empty() ? "" : " (did you mean " + meant + "?)");
}

} // namespace

std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
    std::string text = make_option_desc(option);
    if (option->get_required() && !is_positional) text += " (needed)";
    return in_two_columns(make_option_name(option, is_positional) + make_option_opts(option), text, column_width_);
}

// What is taken, and the default. Choices are told; bounds are left to the error.
std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
    if (!option->get_option_text().empty()) return " " + option->get_option_text();
    if (option->get_type_size() == 0) return "";
    std::string type = option->get_type_name();
    const size_t check = type.find(':');
    if (check != std::string::npos) type = type[check + 1] == '{' ? type.substr(check + 1) : type.substr(0, check);
    std::string text = type.empty() ? "" : " " + type;
    if (!option->get_default_str().empty()) text += "=" + option->get_default_str();
    if (option->get_expected_max() == CLI::detail::expected_max_vector_size) text += " ...";
    return text;
}

std::string HelpFormatter::make_subcommand(const CLI::App* verb) const {
    return in_two_columns(verb->get_name(), verb->get_description(), 14);
}

std::string HelpFormatter::make_footer(const CLI::App* app) const {
    std::istringstream lines(app->get_footer());
    std::string line, paragraph, out;
    const auto end_paragraph = [&] {
        if (!paragraph.empty()) out += "\n" + wrapped(paragraph, 0);
        paragraph.clear();
    };
    while (std::getline(lines, line)) {
        if (line.empty() || line[0] == ' ') {
            end_paragraph();
            out += "\n" + line;
            continue;
        }
        paragraph += (paragraph.empty() ? "" : " ") + line;
        if (line.back() == '.' || line.back() == ':') end_paragraph();
    }
    end_paragraph();
    return out.empty() ? out : out + "\n";
}

Error unknown_verb(const CLI::App& app, const std::string& word) {
    std::vector<std::string> verbs;
    for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; }))
        verbs.push_back(verb->get_name());
    const std::string meant = nearest(word, verbs);
    return {ErrorKind::invalid_argument,
            "there is no verb '" + word + "'; " +
                (meant.empty() ? "attnscope --help lists them" : "did you mean " + meant + "?")};
}

std::string nearest_option(const CLI::App& verb, const std::string& word) {
    if (word.rfind("--", 0) != 0) return {};
    std::vector<std::string> names;
    for (const CLI::Option* option : verb.get_options()) {
        if (option->get_group().empty()) continue; // no help shows it
        for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    return nearest(word.substr(0, word.find('=')), names);
}

Error wrong_arguments(const CLI::App& app, const CLI::ParseError& error) {
    std::string sentence = error.what();
    const bool no_verb = dynamic_cast<const CLI::RequiredError*>(&error) && app.get_subcommands().empty();
    if (dynamic_cast<const CLI::ExtrasError*>(&error) || (no_verb && !app.remaining(true).empty()))
        sentence = unexpected(app);
    if (dynamic_cast<const CLI::ValidationError*>(&error)) sentence = range_in_words(sentence);
    while (!sentence.empty() && (sentence.back() == '\n' || sentence.back() == '.')) sentence.pop_back();
    const CLI::App* at = &app;
    std::string verbs = "attnscope";
    while (!at->get_subcommands().empty()) {
        at = at->get_subcommands().back();
        verbs += " " + at->get_name();
    }
    return {ErrorKind::invalid_argument, sentence + "; " + verbs + " --help says what there is"};
}

} // namespace attnscope::cli
