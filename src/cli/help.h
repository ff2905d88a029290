// How --help is laid out, and what is said of a command line that cannot be understood.
#pragma once

#include <attnscope/error.h>

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace attnscope::cli {

// Nothing is wider than 80 columns but what somebody may copy: lines of a footer that begin with a space stay as they are.
class HelpFormatter : public CLI::Formatter {
public:
    HelpFormatter() { column_width(30); }
    std::string make_option(const CLI::Option* option, bool is_positional) const override;
    std::string make_option_opts(const CLI::Option* option) const override;
    std::string make_subcommand(const CLI::App* verb) const override;
    std::string make_footer(const CLI::App* app) const override;
};

// The verb that was meant by a word that is none, as a sentence.
Error unknown_verb(const CLI::App& app, const std::string& word);
// The long option of `verb` that was meant by a word that is none; empty: nothing is like it.
std::string nearest_option(const CLI::App& verb, const std::string& word);
// What CLI11 says, with where help is.
Error wrong_arguments(const CLI::App& app, const CLI::ParseError& error);

} // namespace attnscope::cli
