"""Line plots as small SVG files."""

COLORS = ["#1f4e79", "#c0392b", "#27803b", "#8e5ea2", "#b9770e", "#2a9d9d", "#7f7f7f", "#d35590", "#5d6d1e"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 56, 170, 28, 40


def ticks(low, high, count=5):
    step = (high - low) / (count - 1) or 1
    return [low + i * step for i in range(count)]


def lines(path, title, x_label, y_label, series):
    """series: {name: ([x], [y], [spread] or None)}."""
    xs = [x for x_list, _, _ in series.values() for x in x_list]
    ys = [y for _, y_list, _ in series.values() for y in y_list]
    low, high, left, right = min(ys), max(ys), min(xs), max(xs)
    pad = (high - low) * 0.05 or 1
    low, high = low - pad, high + pad

    def at(x, y):
        return (LEFT + (x - left) / ((right - left) or 1) * (WIDTH - LEFT - RIGHT),
                TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
           f'font-size="11"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
           f'<text x="{LEFT}" y="16" font-size="13">{title}</text>']
    for y in ticks(low, high):
        _, place = at(left, y)
        out.append(f'<path d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    for x in sorted(set(xs)):
        place, _ = at(x, low)
        out.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{x_label}</text>'
               f'<text x="14" y="{HEIGHT / 2:.0f}" transform="rotate(-90 14 {HEIGHT / 2:.0f})" '
               f'text-anchor="middle">{y_label}</text>')
    for index, (name, (x_list, y_list, spread)) in enumerate(series.items()):
        color = COLORS[index % len(COLORS)]
        points = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in zip(x_list, y_list))
        out.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.8"/>')
        for i, (x, y) in enumerate(zip(x_list, y_list)):
            if spread and spread[i]:
                (place, top), (_, bottom) = at(x, y + spread[i]), at(x, y - spread[i])
                out.append(f'<path d="M{place:.1f} {top:.1f}V{bottom:.1f}" stroke="{color}"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 10}" y="{TOP + 14 + 15 * index}" fill="{color}">{name}</text>')
    with open(path, "w") as file:
        file.write("".join(out) + "</svg>\n")
