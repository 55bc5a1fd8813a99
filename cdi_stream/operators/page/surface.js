// The surface of a crystal in 3D, coloured by a quantity, that can be turned.

import {COLOURS} from "./draw.js";
import {AmbientLight, BufferAttribute, BufferGeometry, DirectionalLight, Mesh, MeshLambertMaterial, OrbitControls,
  OrthographicCamera, Scene, Vector3, WebGLRenderer} from "./three.js";

const TURN = Math.PI / 18; // of one press of an arrow key
// Directions from which the crystal is seen: against the beam, from above, and from the outboard side.
export const SIDES = {z: new Vector3(0, 0, 1), y: new Vector3(0, 1, 0), x: new Vector3(1, 0, 0)};
const OBLIQUE = new Vector3(0.55, 0.4, 0.75);

const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);

function geometryOf({header, images}) {
  const {vertices, normals, triangles} = images;
  const places = Float32Array.from(vertices.data, (v, i) => header.origin_nm[i % 3] + header.step_nm * v);
  const made = new BufferGeometry();
  made.setAttribute("position", new BufferAttribute(places, 3));
  made.setAttribute("normal", new BufferAttribute(Float32Array.from(normals.data, (v) => v / 127), 3));
  made.setAttribute("color", new BufferAttribute(new Float32Array(places.length), 3));
  made.setIndex(new BufferAttribute(triangles.data, 1));
  made.computeBoundingSphere();
  return made;
}

export class SurfaceView {
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new WebGLRenderer({canvas, antialias: true, alpha: true, preserveDrawingBuffer: true});
    this.scene = new Scene();
    this.camera = new OrthographicCamera(-1, 1, 1, -1, 0.1, 1e6);
    this.lamp = new DirectionalLight(0xffffff, 1.6);
    this.scene.add(new AmbientLight(0xffffff, 1.7), this.camera);
    this.camera.add(this.lamp);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enablePan = false;
    this.controls.addEventListener("change", () => this.draw());
    canvas.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
    this.mesh = null;
  }

  // Show a message with a mesh; the direction of view stays as it is.
  show(message) {
    this.clear();
    this.message = message;
    const material = new MeshLambertMaterial({vertexColors: true});
    this.mesh = new Mesh(geometryOf(message), material);
    this.scene.add(this.mesh);
    const {center, radius} = this.mesh.geometry.boundingSphere;
    const direction = this.isPlaced ? this.camera.position.clone().sub(this.controls.target) : OBLIQUE;
    this.radius = radius;
    this.controls.target.copy(center);
    this.look(direction);
  }

  clear() {
    if (this.mesh) {
      this.scene.remove(this.mesh);
      this.mesh.geometry.dispose();
      this.mesh.material.dispose();
    }
    this.mesh = this.message = null;
    this.draw();
  }

  colour(quantity) {
    if (!this.mesh) return;
    const {data} = this.message.images[quantity];
    const colours = COLOURS[quantity];
    const attribute = this.mesh.geometry.attributes.color;
    data.forEach((value, i) => attribute.setXYZ(i, ...colours[value].map(linear)));
    attribute.needsUpdate = true;
    this.draw();
  }

  look(direction) {
    const {target} = this.controls;
    this.camera.position.copy(direction).setLength(4 * (this.radius ?? 1)).add(target);
    this.camera.near = 0.1 * (this.radius ?? 1);
    this.camera.far = 10 * (this.radius ?? 1);
    this.camera.up.set(0, direction.x === 0 && direction.z === 0 ? 0 : 1, direction.x === 0 && direction.z === 0 ? -1 : 0);
    this.camera.lookAt(target);
    this.isPlaced = true;
    this.controls.update();
    this.draw();
  }

  press(event) {
    const turns = {ArrowLeft: [-TURN, 0], ArrowRight: [TURN, 0], ArrowUp: [0, -TURN], ArrowDown: [0, TURN]};
    if (!(event.key in turns) || !this.mesh) return;
    event.preventDefault();
    const [around, up] = turns[event.key];
    const away = this.camera.position.clone().sub(this.controls.target);
    const polar = Math.min(Math.max(Math.acos(away.y / away.length()) + up, 0.01), Math.PI - 0.01);
    const azimuth = Math.atan2(away.x, away.z) + around;
    this.look(new Vector3(Math.sin(polar) * Math.sin(azimuth), Math.cos(polar), Math.sin(polar) * Math.cos(azimuth)));
  }

  draw() {
    const {clientWidth: width, clientHeight: height} = this.canvas;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    const half = 1.08 * (this.radius ?? 1);
    const [across, up] = width > height ? [half * width / height, half] : [half, half * height / width];
    Object.assign(this.camera, {left: -across, right: across, top: up, bottom: -up});
    this.camera.updateProjectionMatrix();
    this.renderer.render(this.scene, this.camera);
  }
}
