"""Plots as small SVG files."""

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


def bars(path, title, label, rows):
    """rows: [(name, before or None, after)]: a bar for each `after` from the lowest value on, a mark at `before`."""
    values = [v for _, before, after in rows for v in (before, after) if v is not None]
    low, high, left, right, step = min(values), max(values), 150, 60, 18
    low -= (high - low) * 0.05 or 1
    height = TOP + step * len(rows) + BOTTOM

    def at(value):
        return left + (value - low) / ((high - low) or 1) * (WIDTH - left - right)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
           f'font-size="11"><rect width="{WIDTH}" height="{height}" fill="white"/>'
           f'<text x="{left}" y="16" font-size="13">{title}</text>']
    for value in ticks(low, high):
        out.append(f'<path d="M{at(value):.1f} {TOP}V{height - BOTTOM}" stroke="#ddd"/>'
                   f'<text x="{at(value):.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{value:.3g}</text>')
    for index, (name, before, after) in enumerate(rows):
        y = TOP + step * index
        out.append(f'<text x="{left - 6}" y="{y + 13}" text-anchor="end">{name}</text>'
                   f'<rect x="{left}" y="{y + 3}" width="{at(after) - left:.1f}" height="{step - 6}" '
                   f'fill="{COLORS[0]}"/><text x="{at(after) + 4:.1f}" y="{y + 13}">{after:.3f}</text>')
        if before is not None:
            out.append(f'<path d="M{at(before):.1f} {y + 1}v{step - 2}" stroke="{COLORS[1]}" stroke-width="2"/>')
    out.append(f'<text x="{(left + WIDTH - right) / 2:.0f}" y="{height - 6}" text-anchor="middle">{label}</text>')
    with open(path, "w") as file:
        file.write("".join(out) + "</svg>\n")
