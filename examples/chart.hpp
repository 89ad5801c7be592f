// Line charts with logarithmic axes as SVG.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // both > 0
};
struct Panel {
  std::string title;
  std::vector<Series> series;
};

namespace chart_detail {

inline std::string format(char const* pattern, double a, double b = 0, double c = 0, double d = 0) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, a, b, c, d);
  return text;
}
// 4096 as 4K, 20000 as 20k.
inline std::string short_number(double value, double thousand, char const* unit) {
  return value >= thousand ? format("%g", value / thousand) + unit : format("%g", value);
}
inline std::string escaped(std::string const& text) {
  std::string out;
  for (char const c : text) {
    out += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
  }
  return out;
}

}  // namespace chart_detail

// Panels side by side over one x axis, with one legend; series of one name have one colour.
inline std::string svg_chart(std::vector<Panel> const& panels, std::string const& x_label) {
  using namespace chart_detail;
  constexpr double width = 460, height = 360, left = 62, top = 40, bottom = 46, gap = 20;
  constexpr std::array<char const*, 8> colours{"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                               "#e69f00", "#56b4e9", "#555555", "#8b4513"};
  std::vector<std::string> names;
  for (Panel const& panel : panels) {
    for (Series const& s : panel.series) {
      if (std::find(names.begin(), names.end(), s.name) == names.end()) {
        names.push_back(s.name);
      }
    }
  }
  auto const colour = [&](std::string const& name) {
    auto const at = std::find(names.begin(), names.end(), name) - names.begin();
    return std::string(colours[static_cast<std::size_t>(at) % colours.size()]);
  };
  double const all_width = static_cast<double>(panels.size()) * (left + width + gap) + 150;
  std::string svg =
      format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" ", all_width, top + height + bottom) +
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"white\"/>\n";
  double origin = left;
  for (Panel const& panel : panels) {
    double x0 = 1e300, x1 = 0, y0 = 1e300, y1 = 0;
    for (Series const& s : panel.series) {
      for (auto const& [x, y] : s.points) {
        x0 = std::min(x0, x);
        x1 = std::max(x1, x);
        y0 = std::min(y0, y);
        y1 = std::max(y1, y);
      }
    }
    if (x1 <= 0) {
      continue;
    }
    x1 = std::max(x1, 2 * x0);
    double const low = std::floor(std::log10(y0)), high = std::max(low + 1, std::ceil(std::log10(y1)));
    auto const px = [&](double x) { return origin + width * std::log2(x / x0) / std::log2(x1 / x0); };
    auto const py = [&](double y) { return top + height * (high - std::log10(y)) / (high - low); };
    svg += format("<text x=\"%g\" y=\"20\" font-size=\"15\">", origin) + escaped(panel.title) + "</text>\n";
    for (double e = low; e <= high; ++e) {
      double const y = py(std::pow(10, e));
      svg +=
          format("<line x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\" stroke=\"#ddd\"/>", origin, origin + width, y, y);
      svg += format("<text x=\"%g\" y=\"%g\" text-anchor=\"end\">", origin - 6, y + 4) +
             short_number(std::pow(10, e), 1000, "k") + "</text>\n";
    }
    for (double x = x0; x <= x1 * 1.01; x *= 2) {
      svg += format("<line x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\" stroke=\"#eee\"/>", px(x), px(x), top,
                    top + height);
      svg += format("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">", px(x), top + height + 17) +
             short_number(x, 1024, "K") + "</text>\n";
    }
    svg += format("<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">", origin + width / 2, top + height + 36) +
           escaped(x_label) + "</text>\n";
    for (Series const& s : panel.series) {
      std::string line;
      for (auto const& [x, y] : s.points) {
        line += format("%.1f,%.1f ", px(x), py(y));
        svg += format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"", px(x), py(y)) + colour(s.name) + "\"/>";
      }
      svg += "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"" + colour(s.name) + "\" points=\"" + line +
             "\"/>\n";
    }
    origin += left + width + gap;
  }
  double y = top + 12;
  for (std::string const& name : names) {
    double const x = origin - left + 6;
    svg += format("<rect x=\"%g\" y=\"%g\" width=\"14\" height=\"4\" fill=\"", x, y - 6) + colour(name) + "\"/>" +
           format("<text x=\"%g\" y=\"%g\">", x + 20, y) + escaped(name) + "</text>\n";
    y += 20;
  }
  return svg + "</svg>\n";
}
