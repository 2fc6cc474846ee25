// The map: layers of pixels on a canvas, which is moved, enlarged, swiped over and asked what lies where.
// Names come from data: they are put into the page as text only.
"use strict";

const NONE = 255;
const ERRORS = { miss: [213, 94, 0], falseAlarm: [240, 228, 66], hit: [0, 158, 115] };

async function inflated(text, length) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  if (bytes.length !== length) throw new Error("a layer of the map is damaged: save the report anew");
  return bytes;
}

function rgb(colour) {
  const number = parseInt(colour.slice(1), 16);
  return [number >> 16, (number >> 8) & 255, number & 255];
}

// One view of one layer as a canvas of its own size.
function painted(view, colourOf) {
  const canvas = document.createElement("canvas");
  canvas.width = view.w;
  canvas.height = view.h;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(view.w, view.h);
  const data = picture.data;
  for (let k = 0, at = 0; k < view.w * view.h; k++, at += 4) {
    const colour = colourOf(k);
    if (colour === null) continue;
    data[at] = colour[0];
    data[at + 1] = colour[1];
    data[at + 2] = colour[2];
    data[at + 3] = colour.length > 3 ? colour[3] : 255;
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

class MapView {
  constructor(data, canvas, line) {
    this.data = data;
    this.canvas = canvas;
    this.line = line;
    this.sheet = document.createElement("canvas");
    this.colours = data.classes.map((one) => rgb(one.colour));
    this.shownClasses = data.classes.map(() => true);
    this.layers = {};
    this.errorsOf = -1;
    this.swiped = "";
    this.swipeAt = 0.5;
    this.marked = -1;
    this.scale = 1;
    this.middle = [data.width / 2, data.height / 2];
    this.atRest = true;
    this.waiting = false;
  }

  async load() {
    for (const view of this.data.views) {
      const length = view.w * view.h;
      for (const layer of ["classes", "truth", "confidence", "errors"])
        if (view[layer]) view[layer] = await inflated(view[layer], length);
      if (view.image) {
        const image = new Image();
        image.src = view.image;
        await image.decode();
        view.image = image;
      }
    }
    for (const layer of ["image", "map", "labels", "confidence", "errors"]) this.paint(layer);
  }

  paint(layer) {
    const of = (index) => (index === NONE || !this.shownClasses[index] ? null : this.colours[index]);
    this.layers[layer] ??= { visible: false, opacity: 1 };
    this.layers[layer].pictures = this.data.views.map((view) => {
      if (layer === "image") return view.image ?? null;
      if (layer === "map") return painted(view, (k) => of(view.classes[k]));
      if (layer === "labels") return view.truth ? painted(view, (k) => of(view.truth[k])) : null;
      if (layer === "confidence") return view.confidence ? painted(view, (k) => this.grey(view.confidence[k])) : null;
      return view.truth ? painted(view, (k) => this.error(view, k)) : null;
    });
    this.draw();
  }

  grey(level) {
    if (level === NONE) return null;
    const value = Math.round((level / 250) * 255);
    return [value, value, value];
  }

  error(view, k) {
    const true_ = view.truth[k], said = view.classes[k], one = this.errorsOf;
    if (one < 0) {
      if (view.errors) {
        const share = view.errors[k];
        return share === NONE || share === 0 ? null : [...ERRORS.miss, 60 + Math.round((195 * share) / 250)];
      }
      return true_ === NONE || said === NONE || true_ === said ? null : ERRORS.miss;
    }
    if (true_ === NONE || said === NONE) return null;
    if (true_ === one) return said === one ? ERRORS.hit : ERRORS.miss;
    return said === one ? ERRORS.falseAlarm : null;
  }

  // Pixels of the canvas for one of the map where all of it is seen.
  get fitting() {
    return Math.min(this.canvas.width / this.data.width, this.canvas.height / this.data.height) * 0.98;
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (width === this.canvas.width && height === this.canvas.height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    if (this.atRest) this.fit();
    else this.draw();
  }

  fit() {
    this.atRest = true;
    this.marked = -1;
    this.scale = this.fitting;
    this.middle = [this.data.width / 2, this.data.height / 2];
    this.draw();
  }

  // By this factor, with the place under (x, y) of the canvas staying where it is.
  zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const before = this.placeOf(x, y);
    this.scale = Math.min(64, Math.max(this.fitting / 2, this.scale * factor));
    const after = this.placeOf(x, y);
    this.move((before[0] - after[0]) * this.scale, (before[1] - after[1]) * this.scale);
  }

  // By pixels of the canvas; the map's middle stays on the map.
  move(right, down) {
    this.atRest = false;
    const within = (value, most) => Math.min(most, Math.max(0, value));
    this.middle = [
      within(this.middle[0] + right / this.scale, this.data.width),
      within(this.middle[1] + down / this.scale, this.data.height),
    ];
    this.draw();
  }

  go(place) {
    const [top, left, height, width] = this.data.places[place];
    this.atRest = false;
    this.marked = place;
    this.scale = Math.min(64, 0.5 * Math.min(this.canvas.width / width, this.canvas.height / height));
    this.middle = [left + width / 2, top + height / 2];
    this.draw();
  }

  placeOf(x, y) {
    return [
      this.middle[0] + (x - this.canvas.width / 2) / this.scale,
      this.middle[1] + (y - this.canvas.height / 2) / this.scale,
    ];
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.drawNow();
    });
  }

  drawNow() {
    const { canvas, sheet } = this, context = canvas.getContext("2d");
    sheet.width = canvas.width;
    sheet.height = canvas.height;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 1;
    context.clearRect(0, 0, canvas.width, canvas.height);
    const edge = Math.round(this.swipeAt * canvas.width);
    for (const [name, layer] of Object.entries(this.layers)) {
      if (!layer.visible || !layer.pictures) continue;
      this.lay(sheet.getContext("2d"), name, layer.pictures);
      const width = name === this.swiped ? edge : canvas.width;
      context.globalAlpha = layer.opacity;
      if (width > 0) context.drawImage(sheet, 0, 0, width, canvas.height, 0, 0, width, canvas.height);
    }
    context.globalAlpha = 1;
    this.mark(context);
    this.line.hidden = !this.swiped;
    this.line.style.left = `${(100 * this.swipeAt).toFixed(2)}%`;
  }

  // One layer alone on a clean sheet: a closer look stands in for what lies below it.
  lay(context, name, pictures) {
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.sheet.width, this.sheet.height);
    context.translate(this.sheet.width / 2, this.sheet.height / 2);
    context.scale(this.scale, this.scale);
    context.translate(-this.middle[0], -this.middle[1]);
    pictures.forEach((picture, k) => {
      if (!picture) return;
      const view = this.data.views[k], detail = this.scale * (view.width / view.w);
      context.imageSmoothingEnabled = name === "image" ? detail < 4 : detail < 1;
      if (k > 0) context.clearRect(view.left, view.top, view.width, view.height);
      context.drawImage(picture, view.left, view.top, view.width, view.height);
    });
  }

  mark(context) {
    if (this.marked < 0) return;
    const [top, left, height, width] = this.data.places[this.marked];
    const x = (left - this.middle[0]) * this.scale + this.canvas.width / 2;
    const y = (top - this.middle[1]) * this.scale + this.canvas.height / 2;
    for (const [colour, thick] of [["#000", 5], ["#fff", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = thick;
      context.strokeRect(x, y, width * this.scale, height * this.scale);
    }
  }

  // What is known of the map's pixel under (x, y) of the canvas, from the finest view of it; null beyond the map.
  tell(x, y) {
    const [col, row] = this.placeOf(x, y);
    if (col < 0 || row < 0 || col >= this.data.width || row >= this.data.height) return null;
    const view = this.data.views.findLast(
      (one) => col >= one.left && row >= one.top && col < one.left + one.width && row < one.top + one.height
    );
    const i = Math.min(view.h - 1, Math.floor(((row - view.top) / view.height) * view.h));
    const j = Math.min(view.w - 1, Math.floor(((col - view.left) / view.width) * view.w));
    const k = i * view.w + j;
    const name = (index) => (index === NONE ? "none" : this.data.classes[index].name);
    const told = [`row ${Math.floor(row)}, column ${Math.floor(col)}`];
    const t = this.data.transform;
    if (t) {
      const digits = Math.max(0, Math.min(7, 1 - Math.floor(Math.log10(Math.hypot(t[0], t[3])))));
      const x_ = t[0] * col + t[1] * row + t[2], y_ = t[3] * col + t[4] * row + t[5];
      told.push(`x ${x_.toFixed(digits)}, y ${y_.toFixed(digits)}`);
    }
    told.push(`map: ${name(view.classes[k])}`);
    if (view.truth) told.push(`labels: ${name(view.truth[k])}`);
    if (view.confidence && view.confidence[k] !== NONE)
      told.push(`confidence ${(view.confidence[k] / 250).toFixed(2)}`);
    return told.join("; ");
  }
}
